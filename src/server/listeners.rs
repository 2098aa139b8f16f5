//! The listeners of a server: at addresses of its own, and sockets that it was handed.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockAddr, SockRef, Type};

use super::StartError;
use crate::config::{BindAddress, Config};
use crate::connection::accept::Listener;
use crate::connection::acceptor::SharedListener;
use crate::dialects::Port;
use crate::host::socket_file::{SocketFile, free, listen_at};
use crate::host::{self, SEND_BUFFER_BYTES, SocketOptions};

/// Sockets that listen already, for [`Server::start_on`](super::Server::start_on). They stay open for whoever else has them,
/// and keep their connections while no server accepts them.
#[derive(Debug, Default)]
pub struct Inherited {
    /// In place of [`Config::bind`], if there are any.
    pub public: Vec<OwnedFd>,
    /// In place of the address of [`Config::control`], if there are any.
    pub control: Vec<OwnedFd>,
}

impl Inherited {
    /// Returns where these sockets listen: the public ones, then those for control.
    ///
    /// # Errors
    /// [`StartError::Inherited`] when one of them is no listening stream socket of IP or of the file system.
    pub fn addresses(&self) -> Result<[Vec<BindAddress>; 2], StartError> {
        let all = |sockets: &[OwnedFd]| sockets.iter().map(address).collect::<Result<Vec<_>, _>>();
        Ok([all(&self.public)?, all(&self.control)?])
    }
}

/// The open listeners of a server that is not started yet.
#[derive(Default)]
pub(super) struct OpenListeners {
    pub(super) public: Vec<BindAddress>,
    pub(super) control: Vec<BindAddress>,
    /// The listeners of each shard alone.
    pub(super) of_shards: Vec<Vec<Listener>>,
    /// The listeners that all shards share.
    pub(super) shared: Vec<SharedListener>,
    /// The files of sockets, to be removed at the end.
    pub(super) files: Vec<SocketFile>,
}

/// Returns how many listeners each shard has of its own.
pub(super) fn count(config: &Config) -> usize {
    let control = config.control.as_ref().map(|control| &control.bind);
    config.bind.iter().chain(control).filter(|address| !matches!(address, BindAddress::Unix(_))).count()
}

/// Opens the listeners of this configuration, but for those that are `given`.
///
/// # Errors
/// The address at which it cannot listen, the kernel's reason and the remedy.
pub(super) fn open(config: &Config, given: Inherited, shards: usize) -> Result<OpenListeners, StartError> {
    let of_shards = (0..shards).map(|_| Vec::new()).collect();
    let mut open = OpenListeners { of_shards, ..OpenListeners::default() };
    let control: Vec<BindAddress> = config.control.iter().map(|control| control.bind.clone()).collect();
    for (port, sockets, addresses) in
        [(Port::Public, given.public, config.addresses()), (Port::Control, given.control, control)]
    {
        let listening = match sockets.is_empty() {
            true => addresses.iter().map(|address| open.listen(port, address, config)).collect(),
            false => sockets.into_iter().map(|socket| open.adopt(port, socket, config)).collect(),
        };
        let listening: Result<Vec<_>, StartError> = listening;
        match port {
            Port::Public => open.public = listening?,
            Port::Control => open.control = listening?,
        }
    }
    Ok(open)
}

/// Listens where this configuration says, for a moment, but for control and what is `given`.
///
/// # Errors
/// The errors of [`open`].
pub(super) fn try_out(config: &Config, given: &Inherited) -> Result<(), StartError> {
    let addresses = if given.public.is_empty() { config.addresses() } else { Vec::new() };
    for address in addresses {
        match address {
            // A socket that is to be taken over stays.
            BindAddress::Unix(path) if !config.takeover => {
                free(&path).map_err(|reason| StartError::ListenUnix { path, reason })?;
            }
            BindAddress::Unix(_) => {}
            address => {
                let mut open = OpenListeners { of_shards: vec![Vec::new()], ..OpenListeners::default() };
                open.listen(Port::Public, &address, config)?;
            }
        }
    }
    Ok(())
}

impl OpenListeners {
    /// Listens on an address; returns it, with the port that was chosen for port 0.
    fn listen(
        &mut self,
        port: Port,
        address: &BindAddress,
        config: &Config,
    ) -> Result<BindAddress, StartError> {
        let exclusive = !config.takeover;
        match address {
            BindAddress::Unix(path) => {
                let group = config.bind_group.as_deref();
                let opened = listen_at(path, config.bind_mode, group, exclusive);
                let (socket, file) =
                    opened.map_err(|reason| StartError::ListenUnix { path: path.clone(), reason })?;
                self.files.push(file);
                self.shared.push(SharedListener { port, socket, send_buffer_bytes: Some(SEND_BUFFER_BYTES) });
                Ok(address.clone())
            }
            BindAddress::Tcp(address) => self.listen_tcp(port, *address, config, exclusive),
            // `Config::addresses` has given it its port.
            BindAddress::Ip(ip) => {
                self.listen_tcp(port, SocketAddr::new(*ip, config.port), config, exclusive)
            }
        }
    }

    fn listen_tcp(
        &mut self,
        port: Port,
        address: SocketAddr,
        config: &Config,
        exclusive: bool,
    ) -> Result<BindAddress, StartError> {
        let failed = |error| match port {
            Port::Public => StartError::Listen { address, error },
            Port::Control => StartError::ListenControl { address, error },
        };
        let of_ipv4 = |other: &BindAddress| {
            other.tcp().is_some_and(|other| other.is_ipv4() && other.port() == address.port())
        };
        let options = SocketOptions { only_v6: config.addresses().iter().any(of_ipv4), ..options(config) };
        let shards = self.of_shards.len();
        let (address, opened) = host::listen(address, shards, options, exclusive).map_err(failed)?;
        for (own, listener) in self.of_shards.iter_mut().zip(opened) {
            let handle = listener.try_clone().map_err(failed)?;
            own.push(Listener { port, listener, handle });
        }
        Ok(address.into())
    }

    /// Takes a socket that listens already; returns its address.
    fn adopt(&mut self, port: Port, socket: OwnedFd, config: &Config) -> Result<BindAddress, StartError> {
        let at = address(&socket)?;
        let inherited = |error: std::io::Error| StartError::Inherited(format!("{at}: {error}"));
        let reference = SockRef::from(&socket);
        // Another process that has it may accept what this one was woken for.
        reference.set_nonblocking(true).map_err(inherited)?;
        let send_buffer_bytes = match &at {
            BindAddress::Unix(_) => Some(SEND_BUFFER_BYTES),
            BindAddress::Ip(_) | BindAddress::Tcp(_) => {
                host::set_options(&reference, options(config)).map_err(inherited)?;
                None
            }
        };
        self.shared.push(SharedListener { port, socket, send_buffer_bytes });
        Ok(at)
    }
}

fn options(config: &Config) -> SocketOptions {
    SocketOptions {
        user_timeout: config.stream.peer_timeout(),
        keepalive: config.stream.heartbeat.is_none(),
        only_v6: false,
    }
}

/// Returns where a socket listens.
///
/// # Errors
/// It is no listening stream socket of IP or of the file system.
fn address(socket: &OwnedFd) -> Result<BindAddress, StartError> {
    let reference = SockRef::from(socket);
    let refused = |what: &str| {
        StartError::Inherited(format!(
            "{what}, where a listening stream socket is needed; in a .socket unit of systemd write ListenStream=, and no Accept=yes"
        ))
    };
    let kind = reference.r#type().map_err(|_| refused("no socket"))?;
    if kind != Type::STREAM {
        return Err(refused("a socket of datagrams or packets"));
    }
    let at = reference.local_addr().map_err(|_| refused("a socket without an address"))?;
    if !reference.is_listener().unwrap_or(false) {
        return Err(refused("a socket that does not listen"));
    }
    let unix = |at: &SockAddr| at.as_pathname().map(|path| BindAddress::Unix(path.to_owned()));
    match at.domain() {
        Domain::IPV4 | Domain::IPV6 => at.as_socket().map(BindAddress::Tcp),
        Domain::UNIX => unix(&at),
        _ => None,
    }
    .ok_or_else(|| refused("a socket of another kind"))
}
