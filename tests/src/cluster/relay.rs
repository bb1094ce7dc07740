//! A way from the machine's own network namespace into a cluster's.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::netns::Netns;

/// Passes TCP connections from a port on 127.0.0.1 to an address in a namespace, on a thread of its own: it
/// outlives the runtime of the test that started it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Begins to pass connections on. The target need not listen yet.
    ///
    /// # Errors
    /// If nothing can listen on 127.0.0.1.
    pub fn start(netns: Netns, target: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept(listener, netns, target) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, netns: Netns, target: SocketAddr) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(pass(client, netns.clone(), target));
    }
}

async fn pass(mut client: TcpStream, netns: Netns, target: SocketAddr) {
    if let Ok(mut server) = netns.connect(target).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        if copy_bidirectional(&mut client, &mut server).await.is_ok() {
            return;
        }
    }
    // The nearest thing to the refusal or the reset that the other side gave.
    let _ = socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO));
}
