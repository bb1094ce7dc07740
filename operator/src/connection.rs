//! The client of the API server: kube's, over connections that notice when the other side is gone.
//!
//! A watch only ever listens. When the network is cut for a while, the API server sends ever more rarely
//! what it could not deliver, and a client that waits for it hears nothing for minutes after the network is
//! back. Keepalive probes end such a connection, and the watch begins anew.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// A connection is probed when it has been silent for this long …
const KEEPALIVE: Duration = Duration::from_secs(10);
/// … again at this interval …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up after so many probes without answer.
const KEEPALIVE_RETRIES: u32 = 3;

/// A client with the credentials and timeouts of `config`.
///
/// # Errors
/// When the credentials cannot be used.
pub fn client(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
