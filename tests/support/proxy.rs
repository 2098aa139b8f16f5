//! The real nginx, HAProxy and Apache, in front of servers.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Answer, exchange};
use super::machine::{PATIENCE, TempDir, eventually};
use super::process::signal;
use super::stream::Stream;

/// A proxy on a free port; ended when dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where its files are; what it serves itself is in `www`.
    pub(crate) dir: TempDir,
}

impl Proxy {
    /// Writes a configuration for a free port, and runs what `command` makes of its path, until it listens.
    fn start(config: impl Fn(&TempDir, SocketAddr) -> String, command: impl Fn(&str) -> Command) -> Proxy {
        // Between the look for a free port and the proxy somebody else may take it.
        for _ in 0..5 {
            let dir = TempDir::new();
            fs::create_dir(dir.0.join("www")).unwrap();
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let path = dir.0.join("proxy.conf");
            fs::write(&path, config(&dir, address)).unwrap();
            let errors = File::create(dir.0.join("stderr")).unwrap();
            let mut command = command(path.to_str().unwrap());
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
            let mut proxy = Proxy { child: child.expect("the proxy is installed"), address, dir };
            if proxy.listens() {
                return proxy;
            }
            let errors = fs::read_to_string(proxy.dir.0.join("stderr")).unwrap();
            assert!(errors.contains("in use") || errors.contains("cannot bind"), "{errors}");
        }
        panic!("no port was free for long enough");
    }

    fn listens(&mut self) -> bool {
        eventually("the proxy listens", || match self.child.try_wait().unwrap() {
            Some(_) => Some(false),
            None => TcpStream::connect(self.address).ok().map(|_| true),
        })
    }

    pub(crate) fn subscribe(&self, topic: &str, fields: &str) -> Stream {
        let address = self.address;
        Stream::send(address, &format!("GET /subscribe/{topic} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n"))
    }

    pub(crate) fn publish(&self, topic: &str, body: &str) -> Answer {
        Answer::parse(&exchange(self.address, "POST", &format!("/publish/{topic}"), &[], body))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let start = Instant::now();
        // Killed, nginx would leave its workers behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), "TERM");
        }
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn nginx<const N: usize>(config: &str, servers: [SocketAddr; N]) -> Proxy {
    let config = replace(&with_servers(config, &servers), "user www-data;", "daemon off;");
    Proxy::start(
        |dir, address| {
            let dir = dir.0.to_str().unwrap();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {dir}/{name};"))
                .concat();
            let config = replace(&config, "listen 80;", &format!("listen {address};"));
            let config = replace(&config, "http {", &format!("http {{ {temporary}"));
            let config = config.replace("/var/www/html", &format!("{dir}/www"));
            replace(&replace(&config, "/var/log/nginx/", &format!("{dir}/")), "/run/", &format!("{dir}/"))
        },
        |path| {
            let mut command = Command::new("nginx");
            command.args(["-c", path, "-e", "stderr"]);
            command
        },
    )
}

pub(crate) fn haproxy<const N: usize>(config: &str, servers: [SocketAddr; N]) -> Proxy {
    let config = with_servers(config, &servers);
    Proxy::start(
        |_, address| replace(&config, "bind :80\n", &format!("bind {address}\n")),
        |path| {
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f", path]);
            command
        },
    )
}

/// Apache with the modules that Debian switches on by itself, those that the site asks for, and this site.
pub(crate) fn apache(site: &str, server: SocketAddr) -> Proxy {
    let modules = ["mpm_event", "authz_core", "asis", "deflate", "filter", "proxy", "proxy_http"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let site = replace(&with_servers(site, &[server]), "*:80>", "*>");
    Proxy::start(
        |dir, address| {
            let dir = dir.0.to_str().unwrap();
            let site = site.replace("/var/www/html", &format!("{dir}/www"));
            let site = site.replace("${APACHE_LOG_DIR}", dir);
            format!(
                "ServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
                 DocumentRoot {dir}/www\nUser www-data\nGroup www-data\nListen {address}\n{modules}{site}"
            )
        },
        |path| {
            let mut command = Command::new("apache2");
            command.args(["-D", "FOREGROUND", "-f", path]);
            command
        },
    )
}

/// With these servers in place of those on the port 3000 or 8000 or, for several, 3001 and the next ones.
fn with_servers(config: &str, servers: &[SocketAddr]) -> String {
    for one in ["127.0.0.1:3000", "127.0.0.1:8000"] {
        if config.contains(one) {
            return replace(config, one, &servers[0].to_string());
        }
    }
    let several = (3001..).map(|port| format!("127.0.0.1:{port}"));
    let several: Vec<String> = several.take_while(|one| config.contains(one)).collect();
    assert!(!several.is_empty(), "no server in {config}");
    let places = several.iter().zip(servers.iter().cycle());
    places.fold(config.to_owned(), |config, (one, server)| config.replace(one, &server.to_string()))
}

/// Replaces what must be there, so that no change of a configuration leaves a test with another one than it thinks.
pub(crate) fn replace(config: &str, from: &str, to: &str) -> String {
    assert!(config.contains(from), "no {from:?} in {config}");
    config.replace(from, to)
}
