//! A RabbitMQ for the tests, and a publisher beside the bridge.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;

use crate::config::BrokerUrl;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

/// The URL of the RabbitMQ that all tests share which do nothing to it.
pub(super) fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        if let Ok(url) = std::env::var("ESPER_TEST_AMQP_URL") {
            return url;
        }
        let broker = Broker::start();
        let url = broker.url.clone();
        // Never dropped: it ends when this process, and with it the script's standard input, does.
        std::mem::forget(broker);
        url
    })
}

/// A RabbitMQ of one test's own.
pub(super) struct Broker {
    pub(super) url: String,
    dir: PathBuf,
    port: u16,
    script: Child,
}

impl Broker {
    pub(super) fn start() -> Self {
        // Below what the kernel gives to connections.
        let free = |port: &u16| (*port..port + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        let port = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).find(free).unwrap();
        let dir = std::env::temp_dir().join(format!("esper-rabbitmq-{}-{port}", std::process::id()));
        let mut script = Command::new(SCRIPT)
            .args(["run".as_ref(), dir.as_os_str(), port.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(!url.is_empty(), "no RabbitMQ: install rabbitmq-server, or set ESPER_TEST_AMQP_URL");
        Self { url: url.trim().to_owned(), dir, port, script }
    }

    pub(super) fn ctl(&self, arguments: &[&str]) {
        self.script(&[&["ctl", self.dir.to_str().unwrap()], arguments].concat());
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        self.script(&["kill", self.dir.to_str().unwrap()]);
    }

    /// Starts it again.
    pub(super) fn again(&self) {
        self.script(&["start", self.dir.to_str().unwrap(), &self.port.to_string()]);
    }

    /// The URL of its TLS listener, and the certificate.
    pub(super) fn tls(&self) -> (String, PathBuf) {
        (format!("amqps://guest:guest@localhost:{}/", self.port + 1), self.dir.join("tls.pem"))
    }

    fn script(&self, arguments: &[&str]) {
        let output = Command::new(SCRIPT).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// What publishes, and looks at queues.
pub(super) struct Publisher {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
}

impl Publisher {
    pub(super) fn new(url: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, channel) = runtime.block_on(async {
            let uri = url.parse::<BrokerUrl>().unwrap().uri().unwrap();
            let connection = Connection::connect_uri(uri, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Self { runtime, connection, channel }
    }

    /// Publishes to a queue, and returns when the broker has all.
    pub(super) fn queue(&self, queue: &str, bodies: &[impl AsRef<[u8]>]) {
        self.publish("", queue, bodies, |properties, _| properties);
    }

    /// The same, with a message id each.
    pub(super) fn queue_with_ids(&self, queue: &str, bodies: &[String], ids: &[&str]) {
        self.publish("", queue, bodies, |properties, at| properties.with_message_id(ids[at].into()));
    }

    pub(super) fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        bodies: &[impl AsRef<[u8]>],
        properties: impl Fn(BasicProperties, usize) -> BasicProperties,
    ) {
        self.runtime.block_on(async {
            let mut confirms = Vec::new();
            for (at, body) in bodies.iter().enumerate() {
                let durable = BasicProperties::default().with_delivery_mode(2);
                let options = BasicPublishOptions::default();
                let published = self.channel.basic_publish(
                    exchange.into(),
                    routing_key.into(),
                    options,
                    body.as_ref(),
                    properties(durable, at),
                );
                confirms.push(published.await.unwrap());
            }
            for confirm in confirms {
                assert!(confirm.await.unwrap().is_ack());
            }
        });
    }

    /// How many messages are ready in a queue, `None` when there is no such queue.
    pub(super) fn ready(&self, queue: &str) -> Option<u32> {
        self.runtime.block_on(async {
            // One of its own: a queue that is not there costs the channel.
            let channel = self.connection.create_channel().await.unwrap();
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
            let ready = declared.ok().map(|queue| queue.message_count());
            let _ = channel.close(200, "".into()).await;
            ready
        })
    }

    pub(super) fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        self.runtime.block_on(declared).unwrap();
    }

    pub(super) fn delete(&self, queue: &str) {
        let deleted = self.channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        self.runtime.block_on(deleted).unwrap();
    }

    pub(super) fn declare_exchange(&self, exchange: &str) {
        let (kind, options) = (ExchangeKind::Topic, ExchangeDeclareOptions::default());
        let declared = self.channel.exchange_declare(exchange.into(), kind, options, FieldTable::default());
        self.runtime.block_on(declared).unwrap();
    }

    pub(super) fn delete_exchange(&self, exchange: &str) {
        let deleted = self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        self.runtime.block_on(deleted).unwrap();
    }
}
