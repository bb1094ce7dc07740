//! What a scripted server does with one connection.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Behaviour, Request, Response, State};

/// Counts a connection as open for as long as it lives.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection; errors are the client's business.
pub(super) async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
) {
    state.open.fetch_add(1, Ordering::Relaxed);
    let open = Open(Arc::clone(&state));
    let _ = stream.set_nodelay(true);
    match state.behaviour() {
        Behaviour::Close => {
            let _ = stream.shutdown().await;
            // What was sent and not read would turn the close into a reset.
            let _ = drain(&mut stream).await;
            return;
        }
        Behaviour::Reset => {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        _ => {}
    }
    let _ = match tls {
        None => converse(stream, peer, &state).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => converse(stream, peer, &state).await,
            Err(error) => {
                state.handshake_failures.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        },
    };
    drop(open);
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: SocketAddr,
    state: &State,
) -> io::Result<()> {
    match state.behaviour() {
        Behaviour::Hold => return drain(&mut stream).await,
        Behaviour::Greet(greeting) => {
            stream.write_all(&greeting).await?;
            stream.flush().await?;
            return drain(&mut stream).await;
        }
        Behaviour::Echo => return echo(&mut stream).await,
        _ => {}
    }
    loop {
        let Some((head, length)) = read_head(&mut stream).await? else { return Ok(()) };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let old = head.lines().next().is_some_and(|line| line.ends_with("HTTP/1.0"));
        let keep = !old && !head.to_ascii_lowercase().contains("connection: close");
        *state.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Request { head, peer });
        state.requests.fetch_add(1, Ordering::Relaxed);
        state.changed.send_replace(());
        // Asked for anew: a connection that is kept open follows a change too.
        match state.behaviour() {
            Behaviour::Http(response) => respond(&mut stream, &response, keep).await?,
            Behaviour::Sequence(responses) => {
                let response = state.next_of(&responses);
                respond(&mut stream, &response, keep).await?;
            }
            Behaviour::Delayed(pause, response) => {
                tokio::time::sleep(pause).await;
                respond(&mut stream, &response, keep).await?;
            }
            Behaviour::Slow(pause, response) => {
                for byte in encode(&response, keep) {
                    stream.write_all(&[byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Behaviour::Endless => return pour(&mut stream).await,
            Behaviour::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Behaviour::Silent | Behaviour::Hold | Behaviour::Greet(_) | Behaviour::Echo => {
                return drain(&mut stream).await;
            }
            Behaviour::Close | Behaviour::Reset => return stream.shutdown().await,
        }
        if !keep {
            return stream.shutdown().await;
        }
    }
}

/// The request line with the headers, and the length of the body; nothing if the client closed before.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<(String, usize)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte, so that nothing of the body is taken; requests here are small.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if head.len() > 1 << 20 {
            return Err(io::Error::other("a request head of more than 1 MiB"));
        }
    }
    let head = String::from_utf8_lossy(&head).trim_end().to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok(Some((head, length.unwrap_or(0))))
}

async fn respond<S: AsyncWrite + Unpin>(stream: &mut S, response: &Response, keep: bool) -> io::Result<()> {
    stream.write_all(&encode(response, keep)).await?;
    stream.flush().await
}

fn encode(response: &Response, keep: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} Scripted\r\n", response.status);
    let given = |name: &str| response.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !given("content-length") && !given("transfer-encoding") {
        text.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(if keep { "\r\n" } else { "Connection: close\r\n\r\n" });
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&response.body);
    bytes
}

/// 200, and 16 KiB of `x` after another.
async fn pour<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    loop {
        stream.write_all(&chunk).await?;
        stream.flush().await?;
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..n]).await?;
        stream.flush().await?;
    }
}

async fn drain<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(drop)
}
