//! RabbitMQ as both the publisher and the bare consumer speak to it.

use futures_util::FutureExt;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use std::time::Duration;
use tokio::time::timeout;

/// The time the broker may take to answer anything.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// The time for which it keeps a queue that was left behind.
pub(crate) const EXPIRE_S: i32 = 600;
/// Both sides end a connection on which they hear nothing for so long. What esper asks for, too.
const HEARTBEAT_S: u16 = 10;

/// Connects. The error never has the URL in it, which holds a password.
pub(crate) async fn connect(url: &str) -> Result<Connection, String> {
    let mut uri: AMQPUri =
        url.parse().map_err(|_| "--amqp-url cannot be read; write it as amqp://user:password@host:5672/")?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    if uri.vhost.is_empty() {
        // What everybody else means by a URL that ends with its slash, esper too.
        uri.vhost = "/".to_owned();
    }
    let connected = Connection::connect_uri(uri, ConnectionProperties::default());
    answered("no connection to RabbitMQ", connected.boxed()).await
}

/// Tries to connect, and waits for the answer.
pub(crate) fn reach(url: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let connection = connect(url).await?;
        answered("no end of the connection to RabbitMQ", connection.close(200, "done".into())).await
    })
}

/// Declares a queue exactly as esper does: otherwise the broker would refuse it to one of them.
pub(crate) async fn declare(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), (EXPIRE_S * 1000).into());
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name(queue), durable, arguments).await.map(|_| ())
}

/// Returns a queue's name as lapin takes it.
pub(crate) fn name(queue: &str) -> ShortString {
    ShortString::try_new(queue).unwrap_or_default()
}

/// Waits for what the broker answers. An error when it does not do so in time.
pub(crate) async fn answered<T>(
    what: &str,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, String> {
    match timeout(ANSWER_TIME, asked).await {
        Ok(answer) => answer.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: it does not answer in {} s", ANSWER_TIME.as_secs())),
    }
}
