//! Certificates: one authority, servers and clients signed by it.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority made for one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, both PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new self-signed authority.
    ///
    /// # Errors
    /// If the key cannot be made.
    pub fn new(common_name: &str) -> Result<Self> {
        let mut params = params(&[], common_name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.self_signed(&key).context("signing the authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server's certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// If a name is not one that a certificate can hold.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let common_name = names.first().copied().unwrap_or("server");
        let mut params = params(names, common_name, &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A server's certificate that expired in 2001.
    ///
    /// # Errors
    /// As [`Authority::server`].
    pub fn expired_server(&self, names: &[&str]) -> Result<Identity> {
        let mut params = params(names, "expired", &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign(params)
    }

    /// A client's certificate; to Kubernetes its names are the user and the groups.
    ///
    /// # Errors
    /// If the key cannot be made.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        let mut params = params(&[], user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("signing a certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(names: &[&str], common_name: &str, organizations: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).context("a name that no certificate can hold")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    for &organization in organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2124, 1, 1);
    Ok(params)
}
