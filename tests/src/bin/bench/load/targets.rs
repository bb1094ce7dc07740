//! The process that is probed. It is the same for all loads, and its CPU counts for none of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Kind, PORT, report};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// Answers on every address of the namespace until the parent is gone.
pub(super) fn serve(kind: Kind) -> Result<()> {
    std::thread::Builder::new().name("targets".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(accept(kind))
    })?;
    report(|| (0, 0, String::new()))
}

async fn accept(kind: Kind) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT).into())?;
    socket.listen(65_535)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        match kind {
            Kind::Tcp => drop(stream),
            Kind::Http => drop(tokio::spawn(answer(stream))),
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 2048];
    let mut length = 0;
    while !request[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut request[length..]).await? {
            0 => return Ok(()),
            n => length += n,
        }
    }
    stream.write_all(ANSWER).await
}
