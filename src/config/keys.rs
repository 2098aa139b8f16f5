//! Reads secrets and public keys from variables and files.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::auth::JwksSource;
use super::control::ControlFlags;
use super::layer::{Layer, on_one_line, variable};
use super::layers::unicode;
use super::values::Size;
use super::{Control, KIB, PublicKey, Secret, SecretPair, Signers};
use crate::auth::{JWKS_BYTES_MAX, JwkSet};

/// The largest file, in bytes: eight RSA keys in PEM take 12 KiB.
const FILE_BYTES_MAX: usize = 64 * KIB;
/// The key length that HS256 requires (RFC 7518, section 3.2); shorter secrets are warned of.
const SECRET_BYTES_GOOD: usize = 32;

/// The flags of a side, whose names begin with `side`: `subscriber`, `publisher` or `session`.
pub(super) struct SideFlags {
    pub(super) side: &'static str,
    /// The secret on the command line, which a session's alone may be.
    pub(super) secret: Option<Secret>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) public_key: Option<PathBuf>,
    pub(super) jwks: Option<JwksSource>,
    pub(super) audiences: Vec<String>,
    pub(super) issuers: Vec<String>,
}

/// Reads secrets and keys, and collects warnings.
pub(super) struct Sources<'a> {
    names: &'a Layer,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Lines for the log, each naming a variable or a flag.
    pub(super) warnings: Vec<String>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(names: &'a Layer, env: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { names, env, warnings: Vec::new() }
    }

    /// Returns the signers that the flags of a side describe.
    pub(super) fn signers(&mut self, flags: SideFlags) -> Result<Signers, String> {
        let SideFlags { side, secret, secret_file, public_key, jwks, audiences, issuers } = flags;
        let secret = self.secret(side, secret.as_ref(), &secret_file)?;
        let mut signers = Signers { secret, audiences, issuers, ..Signers::default() };
        if let Some(path) = public_key {
            signers.public_keys = self.public_keys(&format!("{side}-public-key"), &path)?;
        }
        match jwks {
            Some(JwksSource::File(path)) => {
                signers.public_keys.append(&mut self.jwk_set(&format!("{side}-jwks"), &path)?);
            }
            Some(JwksSource::Url(url)) => signers.jwks_url = Some(url),
            None => {}
        }
        Ok(signers)
    }

    /// Returns a side's secret and the previous one: both from variables, or both from a file.
    pub(super) fn secret(
        &mut self,
        side: &str,
        secret: Option<&Secret>,
        file: &Option<PathBuf>,
    ) -> Result<Option<SecretPair>, String> {
        let (flag, file_flag) = (format!("{side}-secret"), format!("{side}-secret-file"));
        let (current, current_name) = match secret {
            Some(secret) => (Some(secret.clone()), self.names.of(&flag)),
            None => (self.variable(&variable(&flag))?, variable(&flag)),
        };
        let previous_name = format!("{}_PREVIOUS", variable(&flag));
        let previous = self.variable(&previous_name)?;
        let file_name = self.names.of(&file_flag);
        match (current, previous, file) {
            (None, None, None) => Ok(None),
            (None, None, Some(path)) => self.secret_file(&file_flag, path).map(Some),
            (Some(current), previous, None) => {
                self.look_at(&current_name, &current)?;
                if let Some(previous) = &previous {
                    self.look_at(&previous_name, previous)?;
                }
                Ok(Some(SecretPair { current, previous }))
            }
            (Some(_), _, Some(_)) => {
                Err(format!("{current_name} and {file_name} both give the secret; keep one of them"))
            }
            (None, Some(_), Some(_)) => Err(format!(
                "{previous_name} and {file_name} do not go together; \
                 write the previous secret into the file's second line, and unset {previous_name}"
            )),
            (None, Some(_), None) => Err(format!(
                "{previous_name} is set without {current_name}; set {current_name} too, or unset both"
            )),
        }
    }

    /// Returns the control port, if its flags ask for one.
    pub(super) fn control(&mut self, flags: ControlFlags) -> Result<Option<Control>, String> {
        let Some(bind) = flags.bind_control else { return Ok(None) };
        let token = flags.control_token_file.map(|path| self.control_token(&path)).transpose()?;
        Ok(Some(Control { bind, token, ..flags.control }))
    }

    /// Reads the control port's token, a file's only line.
    fn control_token(&mut self, path: &Path) -> Result<Secret, String> {
        let flag = "control-token-file";
        let SecretPair { current, previous } = self.secret_file(flag, path)?;
        let reason = match previous {
            Some(_) => Some("more than one line; the control port has one token"),
            None => Control::check_token(&current).err(),
        };
        match reason {
            Some(reason) => Err(format!("{}: {reason}", self.file_name(flag, path))),
            None => Ok(current),
        }
    }

    fn variable(&self, name: &str) -> Result<Option<Secret>, String> {
        let Some(value) = (self.env)(name) else { return Ok(None) };
        match Secret::new(unicode(name, value)?) {
            Some(secret) => Ok(Some(secret)),
            None => Err(format!("{name}: empty; write a secret, or unset it to have none")),
        }
    }

    fn secret_file(&mut self, flag: &str, path: &Path) -> Result<SecretPair, String> {
        let name = self.file_name(flag, path);
        let refused = |reason: &str| format!("{name}: {reason}");
        let (text, mode) = read(path, FILE_BYTES_MAX).map_err(|reason| refused(&reason))?;
        let mut lines = text.lines();
        let current = lines.next().and_then(Secret::new).ok_or_else(|| {
            refused("its first line is empty; write the secret there: openssl rand -hex 32")
        })?;
        let previous = lines.next().and_then(Secret::new);
        for secret in [Some(&current), previous.as_ref()].into_iter().flatten() {
            self.look_at(&name, secret)?;
        }
        if lines.next().is_some() {
            return Err(refused(
                "more than two lines; write the secret and, below it, the one before, if any",
            ));
        }
        if mode & 0o004 != 0 {
            self.warnings.push(format!("{name}: everybody on this machine may read it; chmod o-r"));
        }
        Ok(SecretPair { current, previous })
    }

    fn public_keys(&self, flag: &str, path: &Path) -> Result<Vec<PublicKey>, String> {
        read(path, FILE_BYTES_MAX)
            .and_then(|(text, _)| PublicKey::list_from_pem(&text))
            .map_err(|reason| format!("{}: {reason}", self.file_name(flag, path)))
    }

    fn jwk_set(&self, flag: &str, path: &Path) -> Result<Vec<PublicKey>, String> {
        let set = read(path, JWKS_BYTES_MAX).and_then(|(text, _)| JwkSet::parse(&text));
        set.map(|set| set.keys).map_err(|reason| format!("{}: {reason}", self.file_name(flag, path)))
    }

    fn file_name(&self, flag: &str, path: &Path) -> String {
        self.names.with(flag, on_one_line(&path.to_string_lossy()))
    }

    /// Refuses text that cannot be a secret, and warns of a short one.
    fn look_at(&mut self, name: &str, secret: &Secret) -> Result<(), String> {
        if secret.expose().starts_with(b"-----BEGIN ") {
            // A public key's text is public, so everybody could sign with it.
            return Err(format!(
                "{name}: a PEM block is no secret; give a public key's file with --subscriber-public-key, \
                 --publisher-public-key or --session-public-key"
            ));
        }
        if secret.expose().len() < SECRET_BYTES_GOOD {
            self.warnings.push(format!(
                "{name}: shorter than 32 bytes, so it may be guessed; make one with: openssl rand -hex 32"
            ));
        }
        Ok(())
    }
}

/// Returns a file's text and permissions; otherwise the reason and the remedy, without the file's text.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<(String, u32), String> {
    let unreadable = |error| format!("{error}; name a file that this process may read");
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // A pipe has nothing left on a second read, and opening it blocks.
    if !metadata.is_file() {
        return Err("not a regular file; name one, which can be read again and again".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > bytes_max {
        return Err(format!("larger than {}; name a file with nothing else in it", Size(bytes_max)));
    }
    let text = String::from_utf8(bytes).map_err(|_| "not UTF-8; write it in UTF-8".to_owned())?;
    Ok((text, metadata.permissions().mode()))
}

#[cfg(test)]
pub(super) mod tests;
