//! Pages of other origins that a tenant allows may use what is for clients by `fetch` (Fetch Standard, section 3.3). No
//! cookie authenticates anywhere, so no answer allows credentials.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use crate::tenants::Tenant;

/// Whether the page that asks, if it is one, may connect to this tenant. `host` is what it connects to.
pub fn may_connect(tenant: &Tenant, headers: &HeaderMap, host: Option<&str>) -> bool {
    // An origin that is no text is nobody's.
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    tenant.origin_allowed(origin, host)
}

/// The host of a request, as the client named it.
pub fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// The origin of the page that asks, where the tenant lets it.
pub fn allowed_origin(tenant: &Tenant, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    may_connect(tenant, headers, host(headers)).then(|| origin.clone())
}

/// Whether a request asks what a page may ask (a preflight).
pub fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Adds to the answer what lets a page of this origin read it.
pub fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
}

/// Adds to the answer to a preflight what may be asked. Browsers keep it for ten minutes.
pub fn allow_requests(headers: &mut HeaderMap) {
    let what = "authorization, content-type, last-event-id";
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(what));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::tenants::Tenants;

    #[test]
    fn an_origin_that_is_no_text_is_nobodys() {
        let config = Config::from_toml("[tenants.acme]\norigins = [\"https://app.example.com\"]", &|_| None);
        let tenant = Tenants::from_config(&config.unwrap()).get("acme").unwrap();
        let from = |origin: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_bytes(origin).unwrap());
            (may_connect(&tenant, &headers, None), allowed_origin(&tenant, &headers).is_some())
        };
        assert_eq!(from(b"https://app.example.com"), (true, true));
        assert_eq!(from(b"https://app.\xe9xample.com"), (false, false));
        assert_eq!(from(b"https://evil.example"), (false, false));
        assert!(may_connect(&tenant, &HeaderMap::new(), None), "it is no page");
    }
}
