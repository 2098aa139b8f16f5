//! A RabbitMQ for tests, and a client of it that publishes and looks at queues. The end-to-end tests take it in.
#![allow(dead_code)]

pub(crate) mod raw;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, Queue};
use tokio::runtime::Runtime;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

/// The URL of the RabbitMQ that all tests share which do nothing to it.
pub(super) fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        if let Some(url) = std::env::var("ESPER_TEST_AMQP_URL").ok().filter(|url| !url.is_empty()) {
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
    pub(super) fn start() -> Broker {
        // Another test's may take a port between the look and the start.
        (0..3)
            .find_map(|_| Broker::try_start())
            .expect("no RabbitMQ: install rabbitmq-server, or set ESPER_TEST_AMQP_URL")
    }

    fn try_start() -> Option<Broker> {
        // Below what the kernel gives to connections.
        let free = |port: &u16| (*port..port + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        let port = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).find(free)?;
        let dir = std::env::temp_dir().join(format!("esper-test-rabbitmq-{}-{port}", std::process::id()));
        let script = Command::new(SCRIPT)
            .args(["run".as_ref(), dir.as_os_str(), port.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script is there");
        let mut broker = Broker { url: String::new(), dir, port, script };
        let stdout = broker.script.stdout.take()?;
        BufReader::new(stdout).read_line(&mut broker.url).ok()?;
        broker.url.truncate(broker.url.trim_end().len());
        (!broker.url.is_empty()).then_some(broker)
    }

    /// rabbitmqctl for it.
    pub(super) fn ctl(&self, arguments: &[&str]) {
        self.script(&[&["ctl", self.dir.to_str().unwrap()], arguments].concat());
    }

    /// Ends it in order.
    pub(super) fn stop(&self) {
        self.script(&["stop", self.dir.to_str().unwrap()]);
    }

    /// The URL of its TLS listener, and the certificate.
    pub(super) fn tls(&self) -> (String, PathBuf) {
        (format!("amqps://guest:guest@localhost:{}/", self.port + 1), self.dir.join("tls.pem"))
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        self.script(&["kill", self.dir.to_str().unwrap()]);
    }

    /// Starts it again.
    pub(super) fn again(&self) {
        self.script(&["start", self.dir.to_str().unwrap(), &self.port.to_string()]);
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
    /// At the RabbitMQ that is shared.
    pub(super) fn new() -> Publisher {
        Publisher::at(url())
    }

    pub(super) fn at(url: &str) -> Publisher {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, channel) = runtime.block_on(async {
            // A path of / alone means the virtual host / to everybody but lapin.
            let url = match url.strip_suffix('/') {
                Some(url) => format!("{url}/%2f"),
                None => url.to_owned(),
            };
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Publisher { runtime, connection, channel }
    }

    /// Publishes to a queue, and returns when the broker has all.
    pub(super) fn queue(&self, queue: &str, bodies: &[impl AsRef<[u8]>]) {
        self.publish("", queue, bodies, |_, properties| properties);
    }

    /// The same, with a message id each.
    pub(super) fn queue_with_ids(&self, queue: &str, bodies: &[String], ids: &[&str]) {
        self.publish("", queue, bodies, |at, properties| properties.with_message_id(ids[at].into()));
    }

    /// The same to an exchange, with the properties that each gets by its place.
    pub(super) fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        bodies: &[impl AsRef<[u8]>],
        properties: impl Fn(usize, BasicProperties) -> BasicProperties,
    ) {
        self.runtime.block_on(async {
            let mut confirms = Vec::new();
            for (at, body) in bodies.iter().enumerate() {
                let durable = BasicProperties::default().with_delivery_mode(2);
                let published = self.channel.basic_publish(
                    exchange.into(),
                    routing_key.into(),
                    BasicPublishOptions::default(),
                    body.as_ref(),
                    properties(at, durable),
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
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.try_declare(queue, passive, None).ok().map(|queue| queue.message_count())
    }

    /// How many consumers it has.
    pub(super) fn consumers(&self, queue: &str) -> Option<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.try_declare(queue, passive, None).ok().map(|queue| queue.consumer_count())
    }

    /// Declares a queue; what exists must have the same properties.
    pub(super) fn declare(&self, queue: &str, durable: bool, expires_ms: Option<i32>) -> Result<(), String> {
        let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
        self.try_declare(queue, options, expires_ms).map(drop)
    }

    fn try_declare(
        &self,
        queue: &str,
        options: QueueDeclareOptions,
        expires_ms: Option<i32>,
    ) -> Result<Queue, String> {
        let mut arguments = FieldTable::default();
        if let Some(expires_ms) = expires_ms {
            arguments.insert("x-expires".into(), AMQPValue::LongInt(expires_ms));
        }
        self.runtime.block_on(async {
            // One of its own: a refusal costs the channel.
            let channel = self.connection.create_channel().await.unwrap();
            let declared = channel.queue_declare(queue.into(), options, arguments).await;
            if declared.is_ok() {
                let _ = channel.close(200, "".into()).await;
            }
            declared.map_err(|error| error.to_string())
        })
    }

    /// Declares a queue whose messages the broker moves to another at once.
    pub(super) fn declare_moving(&self, queue: &str, to: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(0));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(to.into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.runtime.block_on(self.channel.queue_declare(queue.into(), options, arguments)).unwrap();
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
