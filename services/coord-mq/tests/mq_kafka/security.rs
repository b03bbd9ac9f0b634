//! Passwords and documents that are wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use coord::{ErrorKind, Outcome};
use coord_mq::Message;

use super::*;

/// Stands in for a broker that refuses every password: the mock has none. It answers what a client
/// asks before it is let in: the versions, the mechanism, and the password.
fn refusing_broker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Answers until the client hangs up.
fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).ok()?];
        stream.read_exact(&mut request).ok()?;
        let (kind, version) = (number(&request, 0)?, number(&request, 2)?);
        let mut answer = request.get(4..8)?.to_vec();
        match (kind, version) {
            // Which versions of which requests it knows; a version of this one that it does not.
            (18, 1..) => answer.extend([0, 35, 0, 0, 0, 0]),
            (18, _) => {
                answer.extend([0, 0, 0, 0, 0, 3]);
                for (kind, least, most) in [(17_u16, 0_u16, 1_u16), (18, 0, 0), (36, 0, 0)] {
                    for number in [kind, least, most] {
                        answer.extend(number.to_be_bytes());
                    }
                }
            }
            // The mechanism PLAIN.
            (17, _) => answer.extend([0, 0, 0, 0, 0, 1, 0, 5, b'P', b'L', b'A', b'I', b'N']),
            // The password: it is not the right one.
            (36, _) => {
                answer.extend([0, 58, 0, 3, b'b', b'a', b'd', 0, 0, 0, 0]);
            }
            _ => return None,
        }
        let size = u32::try_from(answer.len()).ok()?.to_be_bytes();
        stream.write_all(&size).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

fn number(request: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(request.get(at..at + 2)?.try_into().ok()?))
}

#[tokio::test]
async fn a_service_starts_without_its_brokers_and_is_ready_when_they_are() {
    let brokers = Brokers::with(&[("start", 8)]);
    brokers.all_down();
    let service = Service::on(&brokers, r#""publish_timeout_ms": 1000"#).await;
    let error = service.mq.publish("start", Message::new("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied), "{error}");
    let subscribing = service.mq.subscribe("start", "billing", async |_: Delivery| Verdict::Done);
    let subscription = subscribing.await.unwrap();
    assert!(!subscription.status().ready);
    assert!(!service.app.health().summary().is_serving());
    brokers.all_up();
    service.until("the brokers", |state| *state == State::Ready).await;
    assert!(timeout(LIMIT, subscription.ready()).await.unwrap().ready);
    service.mq.publish("start", Message::new("x")).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let brokers = Brokers::with(&[("start", 8)]);
    let sasl = r#""security_protocol": "sasl_plaintext", "user": "ann", "password": "wrong-sesame""#;
    let service = Service::with(&document(&refusing_broker(), sasl, "")).await;
    let state =
        service.until("the refusal", |state| state.to_string().contains("does not know the user")).await;
    assert!(!state.is_serving());
    let error = service.mq.publish("start", Message::new("x")).await.unwrap_err();
    let (status, parts) = (service.mq.status(), service.app.health().parts());
    let told = format!("{state} {error} {error:?} {status:?} {parts:?} {:?}", service.mq);
    assert!(!told.contains("wrong-sesame"), "{told}");
    // Elsewhere no password is asked for.
    service.configure(&document(&brokers.list(), "", "")).await;
    service.until("the right brokers", |state| *state == State::Ready).await;
    service.mq.publish("start", Message::new("x")).await.unwrap();
}

#[tokio::test]
async fn a_document_that_is_wrong_is_refused_and_the_one_before_stays() {
    let brokers = Brokers::with(&[("documents", 8)]);
    let service = Service::on(&brokers, "").await;
    service.mq.publish("documents", Message::new("x")).await.unwrap();
    for (kafka, named) in [
        (r#""client_id": "a b""#, "kafka.client_id"),
        (r#""clientid": "a""#, "clientid"),
        (r#""properties": {"sasl.password": "hunter2"}"#, "kafka.password"),
        (r#""properties": {"linger.secs": "1"}"#, "linger.secs"),
        (r#""properties": {"linger.ms": "hunter2"}"#, "linger.ms"),
    ] {
        service.configure(&document(&brokers.list(), kafka, "")).await;
        let state = service.until(named, |state| state.to_string().contains(named)).await;
        assert!(state.is_serving() && !state.to_string().contains("hunter2"), "{state}");
        service.mq.publish("documents", Message::new("x")).await.unwrap();
        assert_eq!(service.mq.status().generation, 1);
    }
    service.configure(&document(&brokers.list(), "", "")).await;
    service.until("all is well", |state| *state == State::Ready).await;
}
