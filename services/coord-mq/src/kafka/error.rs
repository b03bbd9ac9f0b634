//! What librdkafka's errors mean.

use coord::{Error, ErrorKind, Outcome};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// An error of librdkafka as one of ours. Its own text is the cause, but for that of a refused
/// property, which may hold a secret.
pub(super) fn failed(operation: &'static str, error: KafkaError) -> Error {
    let (kind, outcome, why) = meaning(error.rdkafka_error_code().unwrap_or(Code::Fail));
    let failed = Error::new(kind, operation, why).with_outcome(outcome);
    match error {
        KafkaError::ClientConfig(..) => {
            Error::invalid_argument(operation, "librdkafka does not take a property; see the field kafka")
        }
        error => failed.with_source(error),
    }
}

/// What a code means: its kind, whether what was asked may have been done, and what to do.
pub(super) fn meaning(code: Code) -> (ErrorKind, Outcome, &'static str) {
    use Outcome::{NotApplied, Unknown};
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            (ErrorKind::Unauthenticated, NotApplied, DOES_NOT_KNOW_US)
        }
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            (ErrorKind::Unauthenticated, NotApplied, "Kafka does not take kafka.sasl_mechanism")
        }
        Code::SSL => (ErrorKind::Unavailable, NotApplied, "no connection by TLS; see kafka.ca_file"),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SecurityDisabled => {
            (ErrorKind::PermissionDenied, NotApplied, "Kafka does not allow it to kafka.user")
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => (
            ErrorKind::InvalidArgument,
            NotApplied,
            "it is larger than the brokers take; see their message.max.bytes",
        ),
        Code::QueueFull => {
            (ErrorKind::Exhausted, NotApplied, "as many messages as may be wait to be sent already")
        }
        Code::ThrottlingQuotaExceeded | Code::GroupMaxSizeReached => {
            (ErrorKind::Exhausted, NotApplied, "a quota of the brokers is reached")
        }
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::PolicyViolation
        | Code::InvalidConfig
        | Code::InvalidRecord
        | Code::InvalidArgument
        | Code::InvalidSessionTimeout => (ErrorKind::InvalidArgument, NotApplied, "Kafka does not take it"),
        Code::NonEmptyGroup => {
            (ErrorKind::Conflict, NotApplied, "somebody subscribes in the group; stop that first")
        }
        // The brokers have not taken it.
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NotEnoughReplicas
        | Code::NotCoordinator
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::RebalanceInProgress
        | Code::KafkaStorageError => {
            (ErrorKind::Unavailable, NotApplied, "the brokers cannot do it at the moment")
        }
        Code::UnsupportedFeature | Code::UnsupportedVersion | Code::NotImplemented => {
            (ErrorKind::Unavailable, NotApplied, "the brokers do not know how to do that")
        }
        Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut | Code::TimedOutQueue => {
            (ErrorKind::Timeout, Unknown, "Kafka did not answer in time")
        }
        Code::PurgeQueue => (ErrorKind::Closed, NotApplied, "the client was closed"),
        Code::PurgeInflight => (ErrorKind::Closed, Unknown, "the client was closed"),
        _ => (ErrorKind::Unavailable, Unknown, "Kafka is out of reach, or said no"),
    }
}

/// What is said where a broker refuses the password.
pub(super) const DOES_NOT_KNOW_US: &str = "Kafka does not know the user; see kafka.user and kafka.password";

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    #[test]
    fn what_may_be_stored_is_told_from_what_is_not() {
        let of = |code| failed("t", KafkaError::MessageProduction(code));
        assert_eq!(of(Code::MessageTimedOut).outcome(), Outcome::Unknown);
        assert_eq!(of(Code::NotEnoughReplicasAfterAppend).outcome(), Outcome::Unknown);
        assert_eq!(of(Code::NotEnoughReplicas).outcome(), Outcome::NotApplied);
        assert_eq!(of(Code::MessageSizeTooLarge).kind(), ErrorKind::InvalidArgument);
        assert_eq!(of(Code::TopicAuthorizationFailed).kind(), ErrorKind::PermissionDenied);
        assert!(of(Code::BrokerTransportFailure).is_transient());
    }

    #[test]
    fn a_refused_property_is_not_shown() {
        let invalid = RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
        let text = || "hunter2".to_owned();
        let error =
            failed("t", KafkaError::ClientConfig(invalid, text(), "sasl.password".to_owned(), text()));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(std::error::Error::source(&error).is_none());
    }
}
