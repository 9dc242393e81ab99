//! A certificate that nobody vouches for is refused, unless the site gives it; the key is not sent before that is known.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use antiphon_oracle::http::{Dialect, HttpError, HttpOracle, HttpSettings, Key, Retry};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name)
}

/// A chat endpoint over TLS that gives no log-probabilities; what it was sent.
fn serve() -> (String, Arc<Mutex<Vec<String>>>) {
    let certificate = CertificateDer::from_pem_file(golden("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(golden("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&heard);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(connection, socket));
            let (mut head, mut line) = (String::new(), String::new());
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                head.push_str(&line);
                line.clear();
            }
            let length = head
                .to_ascii_lowercase()
                .split("content-length:")
                .nth(1)
                .map_or(0, |rest| rest.lines().next().unwrap().trim().parse::<usize>().unwrap());
            let mut body = vec![0; length];
            if head.is_empty() || stream.read_exact(&mut body).is_err() {
                continue;
            }
            log.lock().unwrap().push(head);
            let body = json!({ "data": [{ "id": "m" }] }).to_string();
            let stream = stream.get_mut();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (url, heard)
}

#[test]
fn a_certificate_of_its_own_is_refused_and_accepted_where_it_is_given() {
    let (url, heard) = serve();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "sk-secret\n").unwrap();
    let mut settings = HttpSettings::new(&url, Dialect::ChatText, "m");
    settings.retry = Retry { attempts: 1, ..settings.retry };
    settings.key = Some(Key::from_file(&dir.path().join("key")).unwrap());
    let refused = HttpOracle::connect(settings.clone()).unwrap_err();
    assert!(matches!(refused, HttpError::Probe { .. }), "{refused}");
    assert!(refused.to_string().to_lowercase().contains("certificate"), "{refused}");
    assert!(heard.lock().unwrap().is_empty(), "nothing was said to a stranger");

    settings.certificates = Some(golden("certificate.pem"));
    let oracle = HttpOracle::connect(settings.clone()).unwrap();
    assert_eq!(oracle.found().answers_as, "m");
    assert!(heard.lock().unwrap().iter().all(|head| head.contains("Bearer sk-secret")));

    // what is trusted in place of the usual authorities has to be there
    for (file, words) in [("key.pem", "there is none"), ("nothing.pem", "expected PEM")] {
        settings.certificates = Some(golden(file));
        let error = HttpOracle::connect(settings.clone()).unwrap_err();
        assert!(matches!(error, HttpError::Certificates { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
