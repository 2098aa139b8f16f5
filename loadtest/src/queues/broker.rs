//! The RabbitMQ that is measured with: one of our own, or somebody's.

use super::amqp::reach;
use crate::child::spawn;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Another program may take a port between the look and the start.
const STARTS_MAX: usize = 3;

/// A RabbitMQ. One that this program has started ends with this value, and also when this process ends otherwise.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) url: String,
    /// Its process, where that is on this machine and known.
    pub(crate) pid: Option<u32>,
    script: Option<Child>,
}

impl Broker {
    /// Takes the one at that URL, which must be there.
    pub(crate) fn at(url: &str) -> Result<Broker, String> {
        reach(url)?;
        Ok(Broker { url: url.to_owned(), pid: None, script: None })
    }

    /// Starts one by `scripts/rabbitmq`, on that CPU alone if one is given.
    pub(crate) fn start(script: &Path, cpu: Option<usize>) -> Result<Broker, String> {
        if !script.is_file() {
            return Err(format!(
                "--rabbitmq {} is not there; say where it is, or give --amqp-url",
                script.display()
            ));
        }
        for _ in 0..STARTS_MAX {
            if let Some(broker) = Broker::try_start(script, cpu)? {
                return Ok(broker);
            }
        }
        Err("no RabbitMQ could be started; install rabbitmq-server, or give --amqp-url".to_owned())
    }

    fn try_start(script: &Path, cpu: Option<usize>) -> Result<Option<Broker>, String> {
        // Below what the kernel gives to connections.
        let free = |port: &u16| (*port..port + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        let port = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).take(1_000).find(free);
        let port = port.ok_or("no free port for RabbitMQ")?;
        let folder = std::env::temp_dir().join(format!("esper-bench-rabbitmq-{}-{port}", std::process::id()));
        let mut command = Command::new(script);
        command.arg("run").arg(&folder).arg(port.to_string());
        // It ends in order when its standard input does, which it does with this process: an interrupt is not for it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = spawn(&mut command, cpu)?;
        let mut url = String::new();
        if let Some(stdout) = script.stdout.take() {
            // When it cannot start it says so on standard error, and ends.
            let _ = BufReader::new(stdout).read_line(&mut url);
        }
        let told = std::fs::read_to_string(folder.join("pid")).unwrap_or_default();
        let (url, pid) = (url.trim().to_owned(), told.trim().parse().ok());
        let broker = Broker { url, pid, script: Some(script) };
        Ok((!broker.url.is_empty()).then_some(broker))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(script) = &mut self.script {
            // Closes its standard input first; it waits half a minute for the broker, and then kills it.
            let _ = script.wait();
        }
    }
}
