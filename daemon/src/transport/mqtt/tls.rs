//! TLS towards the broker: who may vouch for it, and who we are.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::link::TlsPem;

/// TLS 1.2 and 1.3 as these files say.
///
/// # Errors
/// What is wrong with them, in words.
pub fn config(pem: &TlsPem) -> Result<Arc<ClientConfig>, String> {
    let certificates = |pem: &[u8], what: &str| {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match found {
            Ok(found) if found.is_empty() => Err(format!("{what} holds no certificate in PEM")),
            Ok(found) => Ok(found),
            Err(error) => Err(format!("{what} is not PEM: {error}")),
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pem.ca, "mqtt.tls.ca")? {
        roots.add(certificate).map_err(|error| format!("mqtt.tls.ca: {error}"))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let config = match &pem.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, "mqtt.tls.certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| format!("mqtt.tls.key holds no private key in PEM: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("mqtt.tls.certificate and mqtt.tls.key: {error}"))?
        }
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_something_else_are_named() {
        let none = TlsPem { ca: b"nothing".to_vec(), own: None };
        let message = config(&none).expect_err("there is no certificate");
        assert!(message.contains("mqtt.tls.ca holds no certificate"), "{message}");
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let message = config(&TlsPem { ca: broken.to_vec(), own: None }).expect_err("it is no certificate");
        assert!(message.starts_with("mqtt.tls.ca: "), "{message}");
    }
}
