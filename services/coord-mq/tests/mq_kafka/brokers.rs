//! librdkafka's mock cluster, and what is stored there.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long one question may take.
const ASK_WITHIN: Duration = Duration::from_secs(20);

/// Three brokers.
pub(crate) struct Brokers {
    pub(crate) mock: MockCluster<'static, DefaultProducerContext>,
}

impl Brokers {
    pub(crate) fn start() -> Self {
        Brokers { mock: MockCluster::new(3).unwrap() }
    }

    /// With topics of so many partitions, of the space `main`.
    pub(crate) fn with(topics: &[(&str, i32)]) -> Self {
        let brokers = Brokers::start();
        for (topic, partitions) in topics {
            brokers.mock.create_topic(&format!("main.{topic}"), *partitions, 3).unwrap();
        }
        brokers
    }

    pub(crate) fn list(&self) -> String {
        self.mock.bootstrap_servers()
    }

    pub(crate) fn all_down(&self) {
        self.mock.broker_down(-1).unwrap();
    }

    pub(crate) fn all_up(&self) {
        self.mock.broker_up(-1).unwrap();
    }

    /// The next so many requests of a kind fail.
    pub(crate) fn refuse(&self, kind: RDKafkaApiKey, error: RDKafkaRespErr, times: usize) {
        self.mock.request_errors(kind, &vec![error; times]);
    }

    fn asker(&self, group: &str) -> BaseConsumer {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.list()).set("group.id", group);
        settings.set("enable.auto.commit", "false").create().unwrap()
    }

    /// The ids of what a topic keeps, by partition, in order.
    pub(crate) fn stored(&self, topic: &str, partitions: i32) -> Vec<Vec<String>> {
        let name = format!("main.{topic}");
        let asker = self.asker("reader");
        let (mut list, mut wanted) = (TopicPartitionList::new(), 0);
        for partition in 0..partitions {
            let (low, high) = asker.fetch_watermarks(&name, partition, ASK_WITHIN).unwrap();
            list.add_partition_offset(&name, partition, Offset::Beginning).unwrap();
            wanted += usize::try_from(high - low).unwrap();
        }
        asker.assign(&list).unwrap();
        let mut stored = vec![Vec::new(); usize::try_from(partitions).unwrap()];
        while wanted > 0 {
            let message = asker.poll(ASK_WITHIN).expect("what is stored, in time").unwrap();
            let id =
                message.headers().and_then(|headers| headers.iter().find(|header| header.key == "mq-id"));
            let id = id.and_then(|header| header.value).map(|id| String::from_utf8_lossy(id).into_owned());
            stored[usize::try_from(message.partition()).unwrap()].push(id.unwrap_or_default());
            wanted -= 1;
        }
        stored
    }

    /// Where a group is in a topic, and what it wrote beside it, by partition.
    pub(crate) fn places(&self, topic: &str, group: &str, partitions: i32) -> Vec<(i64, String)> {
        let name = format!("main.{topic}");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&name, 0, partitions - 1);
        let asker = self.asker(&format!("{name}.{group}"));
        let places = asker.committed_offsets(list, ASK_WITHIN).unwrap();
        let place = |partition| {
            let place = places.find_partition(&name, partition).unwrap();
            (place.offset().to_raw().unwrap(), place.metadata().to_owned())
        };
        (0..partitions).map(place).collect()
    }
}
