//! Keys and certificates of a cluster, made anew for each: one authority signs for servers and clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{Credentials, SERVICE_IP};

pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub ca_pem: String,
}

impl Pki {
    /// Writes `NAME.crt` and `NAME.key` for `ca`, `apiserver` and `kubelet-client`, and the keys `service-account.key`
    /// and `.pub`.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir(dir)?;
        let key = KeyPair::generate()?;
        let mut params = named("outrigger test cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let ca_pem = params.self_signed(&key)?.pem();
        fs::write(dir.join("ca.crt"), &ca_pem)?;
        fs::write(dir.join("ca.key"), key.serialize_pem())?;
        let pki = Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), ca_pem };

        let (kubernetes, service_ip) = ("kubernetes.default.svc", SERVICE_IP.to_string());
        pki.serving("apiserver", &["localhost", "127.0.0.1", &service_ip, "kubernetes.default", kubernetes])?;
        pki.put("kubelet-client", &pki.client("kube-apiserver-kubelet-client", Some("system:masters"))?)?;
        let key = KeyPair::generate()?;
        fs::write(pki.path("service-account.key"), key.serialize_pem())?;
        fs::write(pki.path("service-account.pub"), key.public_key_pem())?;
        Ok(pki)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn admin(&self) -> Result<Credentials> {
        self.client("admin", Some("system:masters"))
    }

    /// Who is `user` in `group` for the API server.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Credentials> {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A serving certificate for `hosts`, as `NAME.crt` and `NAME.key`.
    pub fn serving(&self, name: &str, hosts: &[&str]) -> Result<()> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = named(name, None);
        params.subject_alt_names = CertificateParams::new(hosts)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.put(name, &self.issue(params)?)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Credentials> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials::Certificate { cert: cert.pem(), key: key.serialize_pem() })
    }

    fn put(&self, name: &str, credentials: &Credentials) -> Result<()> {
        if let Credentials::Certificate { cert, key } = credentials {
            fs::write(self.path(&format!("{name}.crt")), cert)?;
            fs::write(self.path(&format!("{name}.key")), key)?;
        }
        Ok(())
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
