//! The real nginx, HAProxy, Apache, Caddy and lighttpd, and a development proxy of Node.js, in front of servers.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
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

pub(crate) fn nginx<S: ToString, const N: usize>(config: &str, servers: [S; N]) -> Proxy {
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

pub(crate) fn haproxy<S: ToString, const N: usize>(config: &str, servers: [S; N]) -> Proxy {
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

pub(crate) fn caddy(config: &str, server: SocketAddr) -> Proxy {
    let config = with_servers(config, &[server]);
    Proxy::start(
        |_, address| {
            // Its own port, for control, is the same for every Caddy.
            let site = format!("{{\n\tadmin off\n}}\n:{} {{\n\tbind {}\n", address.port(), address.ip());
            replace(&config, ":80 {\n", &site)
        },
        |path| {
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config", path]);
            // It would keep certificates and the like at home.
            command
                .env("HOME", Path::new(path).parent().unwrap())
                .env_remove("XDG_DATA_HOME")
                .env_remove("XDG_CONFIG_HOME");
            command
        },
    )
}

/// lighttpd with a configuration that says what it does, but not where: there each part of an address stands alone.
pub(crate) fn lighttpd(config: &str) -> Proxy {
    Proxy::start(
        |dir, address| {
            let dir = dir.0.to_str().unwrap();
            let (ip, port) = (address.ip(), address.port());
            let listen = format!("server.bind = \"{ip}\"\nserver.port = {port}\n");
            let folders =
                format!("server.document-root = \"{dir}/www\"\nserver.upload-dirs = ( \"{dir}\" )\n");
            format!("{listen}{folders}{config}")
        },
        |path| {
            let mut command = Command::new("lighttpd");
            command.args(["-D", "-f", path]);
            command
        },
    )
}

/// What development servers are made of, in `tests/proxies`: http-proxy-middleware behind compression, in Express.
pub(crate) fn development(server: SocketAddr) -> Proxy {
    let packages = installed_packages();
    Proxy::start(
        |_, address| address.to_string(),
        |path| {
            let mut command = Command::new("node");
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/development.mjs"));
            command.args([&fs::read_to_string(path).unwrap(), &server.to_string()]);
            command.current_dir(&packages);
            command
        },
    )
}

/// Installs the packages of `tests/proxies` below `target`, unless those of this lock are there, and returns where.
fn installed_packages() -> PathBuf {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxies");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxies");
    let lock = fs::read_to_string(from.join("package-lock.json")).unwrap();
    let done = to.join("installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == lock) {
        return to;
    }
    fs::create_dir_all(&to).unwrap();
    for file in ["package.json", "package-lock.json"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let output = Command::new("npm").args(arguments).current_dir(&to).stdin(Stdio::null()).output();
    let output = output.expect("npm is installed");
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(done, lock).unwrap();
    to
}

/// With these servers in place of those on the port 3000 or 8000 or, for several, 3001 and the next ones.
fn with_servers<S: ToString>(config: &str, servers: &[S]) -> String {
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
