//! Until when certificates are valid, and what is wrong with them.

use std::time::Duration;

use coord::etcd::{Certificate, CertificateReport};

use super::members::Wrong;
use crate::time;

/// Less than that is left for somebody to see to it.
const SOON: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The certificates that a client and its servers use.
pub(super) struct Certificates {
    report: CertificateReport,
    now: Duration,
}

const SERVERS: &str = "have it issued anew and put it in its place; etcd reads it for each connection";
const OWN: &str =
    "have it issued anew and put it in its place; programs that name files read them for each connection";
const AUTHORITIES: &str =
    "have programs and servers trust its successor as well, before anything is signed by that alone";

impl Certificates {
    pub(super) fn of(report: CertificateReport) -> Self {
        Certificates { report, now: time::now() }
    }

    /// Each with whose it is, and what to do about it.
    fn all(&self) -> impl Iterator<Item = (String, &Certificate, &'static str)> {
        let servers = self.report.servers.iter().flat_map(|server| {
            server.certificates.iter().enumerate().map(|(place, certificate)| match place {
                0 => (server.endpoint.clone(), certificate, SERVERS),
                _ => (format!("what vouches for {}", server.endpoint), certificate, SERVERS),
            })
        });
        let own = self.report.identity.iter().enumerate().map(|(place, certificate)| match place {
            0 => ("this client".to_owned(), certificate, OWN),
            _ => ("what vouches for this client".to_owned(), certificate, OWN),
        });
        let authorities = self.report.authorities.iter();
        let authorities =
            authorities.map(|certificate| ("an authority".to_owned(), certificate, AUTHORITIES));
        servers.chain(own).chain(authorities)
    }

    /// What can be said where nothing is wrong.
    pub(super) fn well(&self) -> String {
        let first = self.all().map(|(_, certificate, _)| certificate.not_after_ms).min();
        let count = self.all().count();
        first.map_or_else(
            || "none was seen".to_owned(),
            |first| format!("{count}, the first is over at {}", time::at(first)),
        )
    }

    /// What is wrong with them, the worst first.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut say =
            |is_bad, found: String, advice: &'static str| wrong.push(Wrong { found, advice, is_bad });
        for (whose, certificate, advice) in self.all() {
            let named = format!("{whose} ({})", certificate.subject);
            let (begins, ends) = (certificate.not_before_ms, certificate.not_after_ms);
            let left = Duration::from_millis(ends).checked_sub(self.now);
            let Some(left) = left else {
                say(true, format!("{named}: over since {}", time::at(ends)), advice);
                continue;
            };
            if Duration::from_millis(begins) > self.now {
                let advice = "is the clock of this machine right?";
                say(true, format!("{named}: not valid before {}", time::at(begins)), advice);
            }
            if left < SOON {
                say(false, format!("{named}: over in {}, at {}", time::short(left), time::at(ends)), advice);
            }
        }
        let now = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        let is_valid = |shown: &Certificate| (shown.not_before_ms..=shown.not_after_ms).contains(&now);
        for server in &self.report.servers {
            // Of a server that shows nothing others say that it does not answer, and of one that
            // shows what is not valid it was said.
            let is_known = server.certificates.is_empty() || !server.certificates.iter().all(is_valid);
            if let Some(error) = server.trusted.as_ref().err().filter(|_| !is_known) {
                let advice =
                    "does it carry the name of the endpoint, and is its authority the one that is trusted?";
                say(true, format!("{} is not trusted: {error}", server.endpoint), advice);
            }
        }
        wrong.sort_by_key(|wrong| !wrong.is_bad);
        wrong
    }
}
