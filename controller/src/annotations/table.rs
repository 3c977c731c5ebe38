//! The list of annotations, one row each: what becomes of it, what that means, what to do.
//!
//! Invariant: the texts of a row continue the sentence of [`Annotation::sentence`], without a full
//! stop.

use super::{Annotation, Effect, Name, Off};

macro_rules! annotations {
    ($($kind:ident $match:ident $name:literal $off:expr, $about:expr $(, $remedy:expr)?;)+) => {
        /// Every annotation that is known.
        pub const ANNOTATIONS: &[Annotation] = &[$(Annotation {
            name: Name::$match($name),
            effect: annotations!(@$kind),
            off: $off,
            about: $about,
            remedy: annotations!(@remedy $kind $($remedy)?),
        },)+];
    };
    (@refused) => { Effect::Refused { whole_host: false } };
    (@host) => { Effect::Refused { whole_host: true } };
    (@ignored) => { Effect::Ignored };
    (@needless) => { Effect::Needless };
    (@certificates) => { Effect::Certificates };
    (@remedy refused) => { REPLACE };
    (@remedy host) => { REPLACE };
    (@remedy $kind:ident) => { "remove it" };
    (@remedy $kind:ident $remedy:expr) => { $remedy };
}

const EMPTY: Off = Off::Empty;
const FALSE: Off = Off::FALSE;
const TRUE: Off = Off::Words(&["1", "t", "T", "true", "True", "TRUE"]);
const EVERYBODY: Off = Off::Everybody(&["0.0.0.0/0", "::/0"]);

const REPLACE: &str = "remove it once something else does what it asks for";

const USERS: &str = "asks for a user and a password";
const SERVICE: &str = "asks an authentication service";
const CERTIFICATES: &str = "asks for client certificates";
const ADDRESSES: &str = "restricts client addresses";
const FIREWALL: &str = "asks for a web application firewall";
const SNIPPET: &str = "holds nginx configuration, which may restrict access,";

const SERVICE_DETAIL: &str = "it only says how an authentication service is asked, and none is";
const CERTIFICATES_DETAIL: &str =
    "it only says how client certificates are treated, and none are asked for";
const WITH_THE_OTHER: &str = "remove it together with the annotation that it belongs to";

const REDIRECT: &str = "the endpoint answers instead of a redirect";
const REDIRECT_REMEDY: &str = "let the application redirect";
const DEADLINES: &str = "the deadlines of the whole gateway hold";
const TRIES: &str =
    "a request is tried again as for all routes, when no answer has begun and it may be sent twice";
const CORS: &str = "no CORS fields are added and preflight requests go to the endpoint";
const CORS_REMEDY: &str = "let the application answer them";
const COOKIE: &str = "no cookie keeps a client on one endpoint";
const COOKIE_REMEDY: &str =
    "set `sessionAffinity: ClientIP` of the Service to go by the address of the client";
const LIMIT: &str = "nobody is slowed down or refused for asking too often";
const LIMIT_REMEDY: &str = "protect the application itself, or with a limit in front";
const CANARY: &str = "the Ingress is an ordinary one: a path that another one owns gets nothing here, any other path gets everything";
const CANARY_REMEDY: &str =
    "remove the Ingress, or shift traffic with the endpoints of the Service";
const BALANCE: &str = "endpoints are chosen as for all Services";
const COPY: &str = "no copy of the requests is sent";
const ENDPOINT_TLS: &str =
    "endpoints that speak TLS are accepted with any certificate and see none of ours";
const ENDPOINT_TLS_REMEDY: &str = "protect the way to the endpoints by other means";
const FASTCGI: &str = "FastCGI is not spoken, so the endpoint gets HTTP";
const LOCATION: &str = "the `Location` of answers passes as the endpoint sent it";
const SET_COOKIE: &str = "`Set-Cookie` of answers passes as the endpoint sent it";
const ERRORS: &str = "answers with an error status pass as the endpoint sent them";
const TRACES: &str = "no traces are sent";
const STREAMED: &str = "bodies are passed on as they come, never stored";
const START: &str = "name a file of issuers with `--acme FILE`, for `run` and for `check`";
const LEGACY: &str = "ingress-nginx itself gave it up";

annotations! {
    // What restricts access.
    refused Is "auth-type" EMPTY, USERS;
    // ingress-nginx serves without a password when the type is missing; nobody means that.
    refused Is "auth-secret" EMPTY, USERS;
    ignored Is "auth-secret-type" EMPTY, "it only says how passwords are stored, and none is asked for", WITH_THE_OTHER;
    ignored Is "auth-realm" EMPTY, "it only names the realm of passwords, and none is asked for", WITH_THE_OTHER;
    refused Is "auth-url" EMPTY, SERVICE;
    ignored Is "auth-method" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-signin" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-signin-redirect-param" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-response-headers" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-request-redirect" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-proxy-set-headers" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-cache-key" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-cache-duration" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-always-set-cookie" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-keepalive" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-keepalive-requests" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-keepalive-share-vars" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-keepalive-timeout" EMPTY, SERVICE_DETAIL, WITH_THE_OTHER;
    needless Is "enable-global-auth" EMPTY, "no authentication of all routes exists that it could lift";
    // Also with verification optional: the application then decides by fields that only the gateway
    // may set.
    host Is "auth-tls-secret" EMPTY, CERTIFICATES;
    host Is "auth-tls-verify-client" Off::Words(&["off"]), CERTIFICATES;
    host Is "auth-tls-match-cn" EMPTY, CERTIFICATES;
    ignored Is "auth-tls-verify-depth" EMPTY, CERTIFICATES_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-tls-error-page" EMPTY, CERTIFICATES_DETAIL, WITH_THE_OTHER;
    ignored Is "auth-tls-pass-certificate-to-upstream" FALSE, CERTIFICATES_DETAIL, WITH_THE_OTHER;
    refused Is "denylist-source-range" EMPTY, ADDRESSES;
    refused Ends "-source-range" EVERYBODY, ADDRESSES;
    ignored Is "satisfy" Off::Words(&["all"]), "it only says how several restrictions are combined, and none is applied", WITH_THE_OTHER;
    refused Is "enable-modsecurity" FALSE, FIREWALL;
    refused Is "enable-owasp-core-rules" FALSE, FIREWALL;
    refused Is "modsecurity-snippet" EMPTY, FIREWALL;
    ignored Is "modsecurity-transaction-id" EMPTY, "it only names transactions of a firewall, and there is none", WITH_THE_OTHER;
    host Is "server-snippet" EMPTY, SNIPPET;
    refused Ends "-snippet" EMPTY, SNIPPET;
    refused Begins "auth-" EMPTY, "is unknown and looks like authentication";
    refused Begins "modsecurity-" EMPTY, "is unknown and looks like a firewall";

    // Paths, hosts and redirects.
    ignored Is "rewrite-target" EMPTY, "the endpoint gets the path as the client sent it", "let the application serve the full path";
    ignored Is "use-regex" FALSE, "paths are compared literally, so one that is meant as an expression matches nothing else than its own text", "write the paths out as Prefix or Exact";
    ignored Is "app-root" EMPTY, "`/` is not redirected", REDIRECT_REMEDY;
    ignored Is "ssl-redirect" TRUE, "http is redirected to https on hosts with a tls section", "set `ssl-redirect` of the ConfigMap to `false`, for all routes";
    ignored Is "force-ssl-redirect" FALSE, "http is redirected to https only on hosts with a tls section", "give the host a tls section";
    ignored Is "preserve-trailing-slash" FALSE, "the redirect to https is the same for all routes", "check the links that end with a slash";
    ignored Is "permanent-redirect" EMPTY, REDIRECT, REDIRECT_REMEDY;
    ignored Is "permanent-redirect-code" EMPTY, REDIRECT, REDIRECT_REMEDY;
    ignored Is "temporal-redirect" EMPTY, REDIRECT, REDIRECT_REMEDY;
    ignored Is "temporal-redirect-code" EMPTY, REDIRECT, REDIRECT_REMEDY;
    ignored Is "relative-redirects" FALSE, "redirects of the gateway name scheme and host", "check that the host is right for clients";
    ignored Is "use-port-in-redirects" FALSE, "redirects of the gateway do not add the port of the listener", "serve https on the standard port";
    ignored Is "from-to-www-redirect" FALSE, "the host with or without `www.` that no rule names is not redirected", "give it a rule, and let the application redirect";
    ignored Is "server-alias" EMPTY, "the other names are not served", "give each a rule";
    ignored Is "default-backend" EMPTY, "503 is answered when no endpoint is ready", "use `spec.defaultBackend` for paths that no rule has";
    ignored Is "custom-http-errors" EMPTY, ERRORS, "let the application make its error pages";
    needless Is "disable-proxy-intercept-errors" EMPTY, ERRORS;
    ignored Is "upstream-vhost" EMPTY, "the endpoint gets the host that the client sent", "let the application serve that host";
    ignored Is "x-forwarded-prefix" EMPTY, "the field is not sent", "tell the application its path by configuration";
    ignored Is "connection-proxy-header" EMPTY, "connections to endpoints are kept", "remove it if the application bears that";
    ignored Is "proxy-redirect-from" Off::Words(&["off"]), LOCATION, "let the application send the right one";
    ignored Is "proxy-redirect-to" Off::Words(&["off"]), LOCATION, "let the application send the right one";
    ignored Is "proxy-cookie-domain" Off::Words(&["off"]), SET_COOKIE, "let the application set the right domain";
    ignored Is "proxy-cookie-path" Off::Words(&["off"]), SET_COOKIE, "let the application set the right path";
    ignored Is "custom-headers" EMPTY, "no fields are added to answers", "let the application send them";
    needless Is "http2-push-preload" EMPTY, "clients no longer take pushes";

    // Endpoints.
    ignored Is "backend-protocol" Off::Words(&["HTTP", "http"]), "endpoints are spoken to in HTTP/1.1 without TLS unless the Service says otherwise", "set `appProtocol` of the port of the Service: `https`, `grpc` or `grpcs`";
    ignored Is "proxy-ssl-secret" EMPTY, ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-verify" Off::Words(&["off"]), ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-verify-depth" EMPTY, ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-name" EMPTY, ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-server-name" Off::Words(&["off"]), ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-protocols" EMPTY, ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "proxy-ssl-ciphers" EMPTY, ENDPOINT_TLS, ENDPOINT_TLS_REMEDY;
    ignored Is "ssl-passthrough" FALSE, "TLS ends at the gateway, with its certificate, and the endpoint gets HTTP", "give the host a certificate, or lead its traffic past the gateway";
    ignored Is "ssl-ciphers" EMPTY, "the cipher suites of the gateway hold", "check that all clients speak TLS 1.2 or 1.3";
    ignored Is "ssl-prefer-server-ciphers" EMPTY, "the cipher suites of the gateway hold", "check that all clients speak TLS 1.2 or 1.3";
    ignored Is "proxy-body-size" EMPTY, "the limit of the whole gateway holds", "set `proxy-body-size` of the ConfigMap, for all routes";
    ignored Is "proxy-connect-timeout" EMPTY, DEADLINES, "set `proxy-connect-timeout` of the ConfigMap, for all routes";
    ignored Is "proxy-read-timeout" EMPTY, DEADLINES, "set `proxy-read-timeout` of the ConfigMap, for all routes";
    ignored Is "proxy-send-timeout" EMPTY, DEADLINES, "set `client-body-timeout` of the ConfigMap, for all routes";
    ignored Is "proxy-next-upstream" EMPTY, TRIES, "let the application answer with what clients can try again";
    ignored Is "proxy-next-upstream-tries" EMPTY, TRIES, "set `proxy-next-upstream-tries` of the ConfigMap, for all routes";
    ignored Is "proxy-next-upstream-timeout" EMPTY, TRIES, "set `proxy-next-upstream-tries` of the ConfigMap, for all routes";
    ignored Is "load-balance" EMPTY, BALANCE, "set `load-balance` of the ConfigMap, for all Services";
    ignored Is "upstream-hash-by" EMPTY, BALANCE, "set `sessionAffinity: ClientIP` of the Service to go by the address of the client";
    ignored Is "upstream-hash-by-subset" FALSE, BALANCE, WITH_THE_OTHER;
    ignored Is "upstream-hash-by-subset-size" EMPTY, BALANCE, WITH_THE_OTHER;
    ignored Is "service-upstream" FALSE, "endpoints are addressed one by one, not by the address of the Service", "remove it unless a service mesh needs that address";
    ignored Is "proxy-http-version" Off::Words(&["1.1"]), "endpoints are spoken to in HTTP/1.1", "remove it if the application bears that";
    ignored Is "fastcgi-index" EMPTY, FASTCGI, "put a web server in front of the application";
    ignored Is "fastcgi-params-configmap" EMPTY, FASTCGI, "put a web server in front of the application";
    ignored Is "mirror-target" EMPTY, COPY, "copy requests in the application";
    ignored Is "mirror-host" EMPTY, COPY, WITH_THE_OTHER;
    ignored Is "mirror-request-body" EMPTY, COPY, WITH_THE_OTHER;
    ignored Is "proxy-buffering" Off::Words(&["off"]), "answers are passed on as they come, so a slow client holds its endpoint", "remove it if the application bears that";
    ignored Is "proxy-request-buffering" Off::Words(&["off"]), "requests are passed on as they come, so a slow client holds its endpoint", "remove it if the application bears that";
    needless Is "client-body-buffer-size" EMPTY, STREAMED;
    needless Is "proxy-buffers-number" EMPTY, STREAMED;
    needless Is "proxy-busy-buffers-size" EMPTY, STREAMED;
    needless Is "proxy-max-temp-file-size" EMPTY, STREAMED;
    needless Is "proxy-buffer-size" EMPTY, "the head of an answer may have 64 KiB on every route";

    // CORS, rates, sessions, canaries.
    ignored Is "enable-cors" FALSE, CORS, CORS_REMEDY;
    ignored Is "cors-allow-origin" EMPTY, CORS, CORS_REMEDY;
    ignored Is "cors-allow-methods" EMPTY, CORS, CORS_REMEDY;
    ignored Is "cors-allow-headers" EMPTY, CORS, CORS_REMEDY;
    ignored Is "cors-expose-headers" EMPTY, CORS, CORS_REMEDY;
    ignored Is "cors-allow-credentials" EMPTY, CORS, CORS_REMEDY;
    ignored Is "cors-max-age" EMPTY, CORS, CORS_REMEDY;
    ignored Is "limit-rps" EMPTY, LIMIT, LIMIT_REMEDY;
    ignored Is "limit-rpm" EMPTY, LIMIT, LIMIT_REMEDY;
    ignored Is "limit-connections" EMPTY, LIMIT, "set `max-connections-per-client` of the ConfigMap, for all routes";
    ignored Is "limit-burst-multiplier" EMPTY, LIMIT, LIMIT_REMEDY;
    ignored Is "limit-rate" EMPTY, LIMIT, LIMIT_REMEDY;
    ignored Is "limit-rate-after" EMPTY, LIMIT, LIMIT_REMEDY;
    ignored Is "limit-allowlist" EMPTY, LIMIT, WITH_THE_OTHER;
    ignored Is "limit-whitelist" EMPTY, LIMIT, WITH_THE_OTHER;
    ignored Is "affinity" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "affinity-mode" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "affinity-canary-behavior" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-name" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-path" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-domain" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-samesite" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-expires" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-max-age" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-secure" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-conditional-samesite-none" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "session-cookie-change-on-failure" EMPTY, COOKIE, COOKIE_REMEDY;
    ignored Is "canary" FALSE, CANARY, CANARY_REMEDY;
    ignored Is "canary-by-header" EMPTY, CANARY, CANARY_REMEDY;
    ignored Is "canary-by-header-value" EMPTY, CANARY, CANARY_REMEDY;
    ignored Is "canary-by-header-pattern" EMPTY, CANARY, CANARY_REMEDY;
    ignored Is "canary-by-cookie" EMPTY, CANARY, CANARY_REMEDY;
    ignored Is "canary-weight" EMPTY, CANARY, CANARY_REMEDY;
    ignored Is "canary-weight-total" EMPTY, CANARY, CANARY_REMEDY;

    // Certificates.
    certificates Is "issuer" EMPTY, "names the issuer of the certificates in the tls section, and no authority is configured", START;
    certificates Is "tls-profile" EMPTY, "names the profile of the certificates in the tls section, such as `shortlived`, and no authority is configured", START;
    certificates Is "tls-key" EMPTY, "says which kind of key they have (`p256`, `p384`, `rsa2048`, `rsa3072`, `rsa4096`), and no authority is configured", START;
    certificates Is "tls-challenges" EMPTY, "says how their names are proved, the preferred challenge first (`http-01`, `tls-alpn-01`, `dns-01`, `dns-persist-01`), and no authority is configured", START;
    certificates Is "tls-ip-sans" EMPTY, "names addresses that they are for as well, and no authority is configured", START;
    certificates Is "tls-always" Off::Words(&["false"]), "asks for them even where a wildcard certificate of the namespace covers all hosts, and no authority is configured", START;

    // Logs and traces.
    ignored Is "enable-access-log" TRUE, "the access log has every request", "filter the log by host or route";
    needless Is "enable-rewrite-log" EMPTY, "`gatehouse explain` says which way a request goes";
    ignored Is "enable-opentelemetry" FALSE, TRACES, "let the application begin them";
    ignored Is "opentelemetry-operation-name" EMPTY, TRACES, "let the application begin them";
    ignored Is "opentelemetry-trust-incoming-span" EMPTY, TRACES, "let the application begin them";

    // Names that manifests still carry.
    ignored Is "secure-backends" FALSE, LEGACY, "set `appProtocol: https` of the port of the Service";
    ignored Is "enable-opentracing" FALSE, LEGACY, "let the application begin traces";
    needless Is "session-cookie-hash" EMPTY, LEGACY;
    needless Is "add-base-url" EMPTY, LEGACY;
    needless Begins "influxdb-" EMPTY, LEGACY;
    needless Is "enable-influxdb" EMPTY, LEGACY;
    ignored Begins "global-rate-limit" EMPTY, LIMIT, LIMIT_REMEDY;
}
