// SPDX-License-Identifier: GPL-3.0-only
//! Who may look through the proxy, and at what. Pure: a request's head goes in, what is to be done comes out.

use hyper::header::{COOKIE, HOST};
use hyper::{HeaderMap, Method, StatusCode, Uri};

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// The daemon is asked for this path and query.
    Forward(String),
    /// The secret of the address is right: from now on a cookie has it, and the address bar does not.
    Enter {
        /// Value of `Set-Cookie`.
        cookie: String,
    },
    /// Nothing is asked.
    Refuse(StatusCode, &'static str),
}

/// The door of one proxy.
#[derive(Debug)]
pub struct Door {
    port: u16,
    token: String,
}

/// What is looked at under `/v1/`: no exports, which have all there is, and no traces, which cost guests something.
const LOOKS: [&str; 13] = [
    "domains",
    "events",
    "flows",
    "history",
    "openapi.json",
    "policies",
    "qos",
    "routes",
    "shadow",
    "signals",
    "stats",
    "status",
    "threats",
];

impl Door {
    /// `port`: on which the proxy listens. `token`: what only who may look knows.
    pub fn new(port: u16, token: String) -> Door {
        Door { port, token }
    }

    /// What to open in a browser.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    /// What is to be done with a request.
    pub fn way(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Way {
        // A name of somebody else's that leads here would make his page and this one the same to a browser.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let ours = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{}", self.port));
        if !host.is_some_and(|host| ours.iter().any(|own| own == host)) {
            let why = "this is served under 127.0.0.1 alone; open the address that `xmesh web` printed";
            return Way::Refuse(StatusCode::MISDIRECTED_REQUEST, why);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let why = "here one may look, and change nothing; use xmesh for that";
            return Way::Refuse(StatusCode::METHOD_NOT_ALLOWED, why);
        }
        let path = uri.path();
        if path == "/" && self.is_token(token_of(uri.query().unwrap_or_default())) {
            return Way::Enter {
                cookie: format!(
                    "{}={}; Path=/; HttpOnly; SameSite=Strict",
                    self.cookie(),
                    self.token
                ),
            };
        }
        if !self.has_cookie(headers) {
            let why =
                "open the address that `xmesh web` printed, with the token in it, by typing or pasting it";
            return Way::Refuse(StatusCode::FORBIDDEN, why);
        }
        if !may_look_at(path) {
            return Way::Refuse(
                StatusCode::NOT_FOUND,
                "nothing of that name is shown here; ask by xmesh",
            );
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Way::Forward(target.to_owned())
    }

    /// Cookies are the same for all ports of a host; so the port is in its name.
    fn cookie(&self) -> String {
        format!("xmesh-{}", self.port)
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie();
        let values = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let pairs = values
            .flat_map(|value| value.split("; "))
            .filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(n, _)| *n == name)
            .any(|(_, value)| self.is_token(value))
    }

    /// In a time that does not tell how much of it is right.
    fn is_token(&self, tried: &str) -> bool {
        let same = self
            .token
            .bytes()
            .zip(tried.bytes())
            .fold(0, |seen, (a, b)| seen | (a ^ b));
        same == 0 && tried.len() == self.token.len()
    }
}

fn token_of(query: &str) -> &str {
    let mut parts = query.split('&');
    parts
        .find_map(|part| part.strip_prefix("token="))
        .unwrap_or_default()
}

fn may_look_at(path: &str) -> bool {
    if path == "/" || path.starts_with("/web/") {
        return true;
    }
    let Some(rest) = path.strip_prefix("/v1/") else {
        return false;
    };
    let first = rest.split('/').next().unwrap_or_default();
    LOOKS.contains(&first) && !path.ends_with("/trace")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "00112233445566778899aabbccddeeff";

    fn way(method: Method, target: &str, host: &str, cookie: Option<&str>) -> Way {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect("a host"));
        if let Some(cookie) = cookie {
            headers.insert(COOKIE, cookie.parse().expect("a cookie"));
        }
        let uri: Uri = target.parse().expect("a path");
        Door::new(8100, TOKEN.into()).way(&method, &uri, &headers)
    }

    fn status(way: Way) -> u16 {
        match way {
            Way::Refuse(status, _) => status.as_u16(),
            Way::Enter { .. } => 303,
            Way::Forward(_) => 200,
        }
    }

    #[test]
    fn the_address_lets_in_and_its_token_becomes_a_cookie() {
        let target = format!("/?token={TOKEN}");
        let Way::Enter { cookie } = way(Method::GET, &target, "127.0.0.1:8100", None) else {
            panic!("is not let in");
        };
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        let (pair, _) = cookie.split_once(';').expect("attributes");
        let kept = format!("other=1; {pair}");
        let asked = way(
            Method::GET,
            "/v1/flows?domain=a%20b",
            "localhost:8100",
            Some(&kept),
        );
        assert_eq!(asked, Way::Forward("/v1/flows?domain=a%20b".into()));
        assert!(Door::new(8100, TOKEN.into()).address().ends_with(&target));
    }

    #[test]
    fn without_it_nobody_looks() {
        let host = "127.0.0.1:8100";
        let short = &TOKEN[..31];
        for cookie in [
            None,
            Some(format!("xmesh-8101={TOKEN}")),
            Some("xmesh-8100=".into()),
            Some(format!("xmesh-8100={short}")),
            Some(format!("xmesh-8100={TOKEN}0")),
            Some(format!("xmesh-8100={short}e")),
        ] {
            let tried = way(Method::GET, "/v1/status", host, cookie.as_deref());
            assert_eq!(status(tried), 403, "{cookie:?}");
        }
        for target in [
            "/",
            "/?token=",
            "/?token=00",
            "/v1/status?token=00112233445566778899aabbccddeeff",
        ] {
            assert_eq!(status(way(Method::GET, target, host, None)), 403, "{target}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_none_of_ours() {
        let cookie = format!("xmesh-8100={TOKEN}");
        for host in [
            "evil.example.org:8100",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:81000",
            "[::1]:8100",
        ] {
            let tried = way(Method::GET, "/v1/status", host, Some(&cookie));
            assert_eq!(status(tried), 421, "{host}");
        }
        let uri = Uri::from_static("/");
        let headless = Door::new(1, TOKEN.into()).way(&Method::GET, &uri, &HeaderMap::new());
        assert_eq!(status(headless), 421);
    }

    #[test]
    fn one_may_look_and_no_more() {
        let cookie = format!("xmesh-8100={TOKEN}");
        let tried =
            |method: Method, target: &str| status(way(method, target, "127.0.0.1:8100", Some(&cookie)));
        for method in [
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::CONNECT,
            Method::OPTIONS,
        ] {
            assert_eq!(tried(method, "/v1/policies"), 405);
        }
        for target in [
            "/",
            "/web/app.js",
            "/v1/threats",
            "/v1/history/12",
            "/v1/domains/web1/processes",
        ] {
            assert_eq!(tried(Method::GET, target), 200, "{target}");
        }
        for target in [
            "/v1/export",
            "/v1/audit",
            "/v1/domains/web1/trace",
            "/v1/",
            "/v2/status",
            "/etc",
        ] {
            assert_eq!(tried(Method::GET, target), 404, "{target}");
        }
    }
}
