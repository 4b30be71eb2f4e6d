//! Somebody at the dashboard, with a client that keeps cookies and trusts the house's own authority.

use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{House, eventually};

/// Of whoever sets a house up here.
pub(crate) const PASSWORD: &str = "correct horse battery";

#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    client: Client,
    base: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// Where it leads; empty: nowhere.
    pub(crate) to: String,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Page {
    /// Of any form on it.
    pub(crate) fn csrf(&self) -> &str {
        let (_, rest) = self.text.split_once("name=\"csrf\" value=\"").expect("the page has a form");
        rest.split_once('"').unwrap().0
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

impl House {
    /// Where its coordinator says that the dashboard is: "https://127.0.0.1:4711".
    pub(crate) async fn page_address(&self) -> String {
        let mut found = String::new();
        eventually("the dashboard is served", async || {
            let log = self.coordinator.log();
            // Of the process that runs now.
            let (_, now) = log.rsplit_once(" starts as coordinator").unwrap_or_default();
            let said = now
                .lines()
                .find_map(|line| line.split_once("the dashboard is at ").map(|(_, address)| address.trim_end_matches('/').to_owned()));
            found = said.unwrap_or_default();
            !found.is_empty()
        })
        .await;
        match &self.plan.lan {
            Some(lan) => {
                let way = self.way_to_page.get_or_init(|| lan.machine("coordinator").way_to(self.web_port.address()));
                format!("https://{way}")
            }
            None => found,
        }
    }

    pub(crate) async fn visitor(&self) -> Visitor {
        self.visitor_who_trusts(&self.coordinator.state_dir().join("web/ca.crt")).await
    }

    pub(crate) async fn visitor_who_trusts(&self, authority: &Path) -> Visitor {
        let base = self.page_address().await;
        let authority = CertificateDer::from_pem_file(authority).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let client = Client::builder().tls_backend_preconfigured(tls).cookie_store(true).redirect(Policy::none()).no_proxy();
        Visitor { client: client.timeout(Duration::from_secs(30)).build().unwrap(), base }
    }

    /// A code for the first visit.
    pub(crate) async fn setup_code(&self) -> String {
        let said = self.coordinator.cli(&["web", "setup-code"]).await.good();
        said.lines().map(str::trim).find(|line| line.len() == 14 && line.matches('-').count() == 2).expect("a code").to_owned()
    }

    /// Ann, the owner, signed in.
    pub(crate) async fn owner(&self) -> Visitor {
        let visitor = self.visitor().await;
        let code = self.setup_code().await;
        let page = visitor.post("/set-up", &[("code", &code), ("name", "Ann"), ("password", PASSWORD), ("again", PASSWORD)]).await;
        assert_eq!((page.status, page.to.as_str()), (303, "/"), "{}", page.text);
        visitor
    }
}

impl Visitor {
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `None`: it was not answered.
    pub(crate) async fn try_ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Option<u16> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.ok().map(|response| response.status().as_u16())
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        read(self.ask(Method::GET, path, &[("accept", "text/html")], String::new()).await).await
    }

    /// A form, as it is.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let origin = self.base.clone();
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
        read(self.ask(Method::POST, path, &headers, form(fields)).await).await
    }

    /// A form of a page of whoever is signed in.
    pub(crate) async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let account = self.get("/account").await;
        let csrf = account.csrf().to_owned();
        self.post(path, &[&[("csrf", csrf.as_str())], fields].concat()).await
    }

    pub(crate) async fn signs_in(&self, name: &str, password: &str) -> Page {
        self.post("/sign-in", &[("name", name), ("password", password)]).await
    }

    /// What an open page hears.
    pub(crate) async fn watches(&self, parts: &str) -> Open {
        let response = self.ask(Method::GET, &format!("/updates{parts}"), &[], String::new()).await;
        assert_eq!(response.status().as_u16(), 200);
        Open { response, heard: String::new() }
    }
}

/// An open page.
pub(crate) struct Open {
    response: Response,
    heard: String,
}

impl Open {
    /// Reads until the part says that.
    pub(crate) async fn hears(&mut self, part: &str, text: &str) {
        let told = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                while let Some((event, rest)) = self.heard.split_once("\n\n") {
                    let found = event.lines().any(|line| line == format!("event: {part}")) && event.contains(text);
                    self.heard = rest.to_owned();
                    if found {
                        return true;
                    }
                }
                match self.response.chunk().await {
                    Ok(Some(bytes)) => self.heard.push_str(&String::from_utf8_lossy(&bytes)),
                    _ => return false,
                }
            }
        });
        assert!(matches!(told.await, Ok(true)), "an open page never heard {text:?} as {part}");
    }

    /// Reads until it is closed: sooner than it would hear of the house by itself.
    pub(crate) async fn ends(mut self) {
        let closed = tokio::time::timeout(Duration::from_secs(5), async { while let Ok(Some(_)) = self.response.chunk().await {} });
        closed.await.expect("the page is cut off");
    }
}

async fn read(response: Response) -> Page {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let to = headers.get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
    Page { status, to, headers, text: response.text().await.unwrap() }
}

fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect::<String>()
    };
    fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect::<Vec<_>>().join("&")
}
