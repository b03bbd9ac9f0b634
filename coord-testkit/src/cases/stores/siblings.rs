//! Keys that are easily taken for each other, and values that are easily taken for something else
//! (S2 to S6): in both, every byte counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Change, Compare, Op, Range, Span, Store, Txn};
use coord_api::{Revision, Value};
use futures_util::future::join_all;

use super::chronicle::{Chronicle, expect};
use super::{keys, told, watch};
use crate::fixture::Fixture;

/// Keys of which some store takes two for the same, or one for a pattern of another.
fn siblings() -> Vec<Bytes> {
    let mut all: Vec<Vec<u8>> = [
        // What patterns are made of.
        "a_",
        "ab",
        "a_/x",
        "ab/x",
        "a%",
        "a%/x",
        "abc/x",
        "a\\",
        "a\\_",
        "a\\%",
        "a*",
        "a?",
        "a[b]",
        "a.",
        "a'",
        "a\"",
        "a$",
        "^a",
        "a|b",
        "a(b",
        "a{0}",
        "%",
        "_",
        "\\",
        "*",
        // Upper and lower case, in and beyond ASCII.
        "A",
        "a",
        "Ab",
        "AB",
        "É",
        "é",
        "İ",
        "i",
        "ı",
        "ß",
        "ss",
        "K",
        "\u{212a}",
        "k",
        // One letter, spelled in two ways.
        "e\u{301}",
        "\u{1e9e}",
        "ﬁ",
        "fi",
        // Blanks.
        "b",
        "b ",
        "b  ",
        " b",
        "b\t",
        "b\n",
        "b\r\n",
        "b\u{a0}",
        "b\u{feff}",
        "\u{feff}b",
        "b\u{200b}",
        // Numbers.
        "1",
        "01",
        "1.0",
        "1e0",
        "+1",
        "10",
        "9",
        "-1",
        "0x1",
        "true",
        "null",
        "NULL",
        // Paths.
        "c",
        "c/",
        "c//",
        "/c",
        "//c",
        "c/d",
        "c//d",
        "c/./d",
        "c/../d",
        ".",
        "..",
        "c\\d",
        "c%2Fd",
        "c%2fd",
        "c+d",
        "c d",
        "c%20d",
        "c;d",
        "c#d",
        "c?d",
        "c:d",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    all.extend(
        [
            // Zero bytes, and bytes that are no text, which a replacement character makes equal.
            &b"\0"[..],
            b"\0\0",
            b"a\0",
            b"a\0b",
            b"a\x01",
            b"a\x7f",
            b"a\x80",
            b"a\xc3",
            b"a\xc3\x28",
            b"a\xfe",
            b"a\xff",
            b"a\xff\xff",
            b"\x7f",
            b"\x80",
            b"\xfe",
            b"\xff",
            b"\xff\0",
            b"\xff\xff",
            b"\xff\xff\xff",
            b"\xef\xbf\xbd",
            b"a\xef\xbf\xbd",
        ]
        .map(<[u8]>::to_vec),
    );
    // By bytes the first of these two comes first, in UTF-16 the second.
    all.extend(["u\u{ffff}", "u\u{10000}"].map(|text| text.as_bytes().to_vec()));
    let mut all: Vec<Bytes> = all.into_iter().map(Bytes::from).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Keys that differ only after so many bytes that are the same.
fn long_siblings() -> Vec<Bytes> {
    let lengths =
        [15, 31, 63, 64, 127, 191, 254, 255, 256, 511, 512, 767, 1_023, 1_024, 2_047, 4_095, 65_535, 65_536];
    let ends: [&[u8]; 3] = [b"", b"1", b"2"];
    lengths
        .into_iter()
        .flat_map(|length| ends.map(|end| Bytes::from([vec![b'l'; length].as_slice(), b"/", end].concat())))
        .collect()
}

/// Whether a key lies in a span, said in other words than the store's own.
fn lies_in(span: &Span, key: &[u8]) -> bool {
    match span {
        Span::Key(own) => own.as_ref() == key,
        Span::Prefix(prefix) => key.get(..prefix.len()) == Some(prefix.as_ref()),
        Span::Interval(from, to) => from.as_ref() <= key && key < to.as_ref(),
    }
}

/// Each key alone, as a prefix, and from it to the next one and to the one after the next few.
fn spans(keys: &[Bytes]) -> Vec<Span> {
    let one = keys.iter().flat_map(|key| [Span::Key(key.clone()), Span::Prefix(key.clone())]);
    let to = |step: usize| {
        keys.iter().zip(keys.iter().skip(step)).map(|(from, to)| Span::Interval(from.clone(), to.clone()))
    };
    one.chain(to(1)).chain(to(7)).collect()
}

/// Writes the keys in an order that is none, and returns them in byte order.
async fn written(store: &dyn Store, mut keys: Vec<Bytes>) -> Vec<Bytes> {
    keys.sort_unstable();
    for part in 0..7 {
        let mut txn = Txn::new();
        txn.then = keys
            .iter()
            .enumerate()
            .filter(|(n, _)| n % 7 == (part * 3) % 7)
            .map(|(n, key)| Op::put(key.clone(), n.to_string()))
            .collect();
        store.txn(txn).await.unwrap();
    }
    keys
}

async fn ranges_of(store: &Arc<dyn Store>, all: Vec<Bytes>) {
    let all = written(&**store, all).await;
    let found = store.range(Range::prefix("")).await.unwrap();
    let (found_keys, values): (Vec<Bytes>, Vec<Value>) =
        found.entries.into_iter().map(|entry| (entry.key, entry.value)).unzip();
    expect(|| "all keys, in byte order".to_owned(), &found_keys, &all);
    let numbers: Vec<Value> = (0..all.len()).map(|n| Value::from(n.to_string())).collect();
    expect(|| "the value of each key".to_owned(), &values, &numbers);
    for span in spans(&all) {
        let expected: Vec<Bytes> = all.iter().filter(|key| lies_in(&span, key)).cloned().collect();
        expect(|| format!("{span:.200?}"), &keys(&**store, Range::new(span.clone())).await, &expected);
    }
    // Pages, of a size that divides nothing.
    let (mut paged, mut range) = (Vec::new(), Range::prefix("").with_limit(7));
    loop {
        let page = store.range(range.clone()).await.unwrap();
        paged.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            break;
        }
        range = range.with_after_key(paged[paged.len() - 1].clone());
    }
    expect(|| "all keys, page by page".to_owned(), &paged, &all);
}

pub(super) async fn ranges(cx: Fixture) {
    ranges_of(&cx.store().await, siblings()).await;
}

pub(super) async fn long_ranges(cx: Fixture) {
    ranges_of(&cx.store().await, long_siblings()).await;
}

/// One key is written, read and deleted at a time; the others must not notice.
pub(super) async fn alone(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    let all: Vec<Bytes> = siblings().into_iter().chain(long_siblings()).collect();
    // Only every other one is there, so that half of them are deleted where they are absent.
    for keys in all.chunks(97) {
        log.write(keys.iter().step_by(2).map(|key| Op::put(key.clone(), key.clone()))).await;
    }
    for (n, key) in all.iter().enumerate() {
        let there = log.last().state.contains_key(key);
        let reply = store.txn(Txn::new().then(Op::delete(key.clone()))).await.unwrap();
        expect(|| format!("whether {key:.200?} existed"), &reply.existed(0), &Some(there));
        if there {
            log.happened(vec![Op::delete(key.clone())], reply.revision);
        }
        if n % 9 == 0 {
            log.judge_present_entries().await;
        }
    }
    expect(|| "what is left".to_owned(), &keys(&*store, Range::prefix("")).await, &Vec::new());
}

async fn compares_of(store: &Arc<dyn Store>, all: Vec<Bytes>) {
    // Every third one is there.
    let there: Vec<Bytes> = all.iter().step_by(3).cloned().collect();
    let there = written(&**store, there).await;
    let entries: BTreeMap<Bytes, _> = store
        .range(Range::prefix(""))
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| (entry.key.clone(), entry))
        .collect();
    let holds = async |compare: Compare, expected: bool| {
        let answer = store.txn(Txn::new().when(compare.clone())).await.unwrap().succeeded;
        expect(|| format!("whether {compare:.200?} holds"), &answer, &expected);
    };
    for key in &all {
        let is = entries.get(key);
        holds(Compare::Absent(key.clone()), is.is_none()).await;
        holds(Compare::Present(key.clone()), is.is_some()).await;
        if let Some((_, other)) = entries.iter().next() {
            let modified = is.map_or(other.modified, |entry| entry.modified);
            holds(Compare::Modified(key.clone(), modified), is.is_some()).await;
        }
    }
    for span in spans(&all) {
        let none = !there.iter().any(|key| lies_in(&span, key));
        holds(Compare::RangeAbsent(span), none).await;
    }
}

pub(super) async fn compares(cx: Fixture) {
    compares_of(&cx.store().await, siblings()).await;
}

pub(super) async fn long_compares(cx: Fixture) {
    compares_of(&cx.store().await, long_siblings()).await;
}

/// What a transaction writes and reads under such keys.
pub(super) async fn transactions(cx: Fixture) {
    let store = cx.store().await;
    // All the keys are different, so that a transaction may write each of them; of the longest only
    // a few are as much as it holds.
    let (short, long) = (siblings(), long_siblings());
    for (round, keys) in short.chunks(60).chain(long.chunks(4)).enumerate() {
        let mut txn = Txn::new();
        txn.compares = keys.iter().map(|key| Compare::Absent(key.clone())).collect();
        txn.then = keys.iter().map(|key| Op::put(key.clone(), key.clone())).collect();
        txn.then.extend(keys.iter().map(|key| Op::Range(Range::key(key.clone()))));
        let reply = store.txn(txn).await.unwrap();
        assert!(reply.succeeded, "the keys of part {round} were absent");
        for (n, key) in keys.iter().enumerate() {
            let found = reply.range(keys.len() + n).expect("the answer of a range");
            let found: Vec<_> =
                found.entries.iter().map(|entry| (&entry.key, entry.value.as_bytes())).collect();
            expect(|| format!("{key:.200?} in its transaction"), &found, &vec![(key, key.as_ref())]);
        }
    }
    let count = keys(&*store, Range::prefix("").with_keys_only()).await.len();
    expect(|| "the number of keys".to_owned(), &count, &(short.len() + long.len()));
}

/// Watches of such keys, of each as a prefix, and of what lies between.
pub(super) async fn watches(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut all: Vec<Bytes> = siblings().into_iter().chain(long_siblings()).collect();
    all.sort_unstable();
    let chosen: Vec<Span> =
        spans(&all).into_iter().enumerate().filter(|(n, _)| n % 4 == 1).map(|(_, span)| span).collect();
    let mut open = Vec::new();
    for part in chosen.chunks(50) {
        open.extend(join_all(part.iter().map(|span| watch(&store, span.clone()))).await);
    }
    let mut log = Chronicle::of(&writer).await;
    let before = log.last().revision;
    for keys in all.chunks(13) {
        log.write(keys.iter().map(|key| Op::put(key.clone(), key.clone()))).await;
    }
    for keys in all.chunks(97) {
        log.write(keys.iter().step_by(2).map(|key| Op::delete(key.clone()))).await;
    }
    let answers = open.iter_mut().zip(&chosen).map(|(watch, span)| log.read(&cx, watch, span, before));
    for answer in join_all(answers).await {
        answer.unwrap();
    }
    // And nothing else: what comes next is what happens next.
    let last = log.write([Op::put("the end", "")]).await;
    for (watch, span) in open.iter_mut().zip(&chosen).filter(|(_, span)| lies_in(span, b"the end")) {
        expect(
            || format!("the last revision of {span:.200?}"),
            &watch.expect(cx.soon()).await.revision,
            &last,
        );
    }
}

/// Each key hangs on a lease of its own kind: revoking one takes with it its own keys alone.
pub(super) async fn leases(cx: Fixture) {
    let store = cx.store().await;
    let mut all = siblings();
    all.extend(long_siblings().into_iter().filter(|key| key.len() < 1_000));
    all.sort_unstable();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(store.grant_lease(cx.long_ttl()).await.unwrap().id);
    }
    let of = |lease: usize| all.iter().skip(lease).step_by(3).cloned().collect::<Vec<_>>();
    for (lease, id) in ids.iter().enumerate() {
        for keys in of(lease).chunks(100) {
            let mut txn = Txn::new();
            txn.then = keys.iter().map(|key| Op::put_leased(key.clone(), "v", *id)).collect();
            store.txn(txn).await.unwrap();
        }
    }
    for (lease, id) in ids.iter().enumerate() {
        let info = store.lease(*id).await.unwrap().expect("the lease lives");
        expect(|| format!("the keys of lease {lease}, in byte order"), &info.keys, &of(lease));
        let mut live = watch(&store, Span::prefix("")).await;
        store.revoke_lease(*id).await.unwrap();
        let gone: BTreeSet<Bytes> =
            told(&live.expect(cx.soon()).await).into_iter().map(|(key, _)| key).collect();
        expect(|| format!("what went with lease {lease}"), &gone, &of(lease).into_iter().collect());
        let left: BTreeSet<Bytes> = ((lease + 1)..3).flat_map(of).collect();
        let found: BTreeSet<Bytes> = keys(&*store, Range::prefix("")).await.into_iter().collect();
        expect(|| format!("what is left after lease {lease}"), &found, &left);
    }
}

/// Values that some store cuts, trims, or takes for text, a number or nothing.
fn values() -> Vec<Value> {
    let mut all: Vec<Vec<u8>> = [
        "",
        " ",
        "  trimmed?  ",
        "\n",
        "line\n",
        "line\r\n",
        "\r",
        "\t",
        "0",
        "00",
        "1.0",
        "1e3",
        "-0",
        "true",
        "null",
        "NULL",
        "\"quoted\"",
        "'",
        "''",
        "\\",
        "\\n",
        "\\0",
        "{\"a\":1}",
        "[]",
        "%",
        "%s",
        "{}",
        "é",
        "e\u{301}",
        "\u{feff}bom",
        "\u{10ffff}",
        "x'00'",
        "AAAA",
        "====",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    all.push((0..=255).collect());
    all.push(vec![0]);
    all.push(vec![0; 1_000]);
    all.push(b"zero\0inside".to_vec());
    all.push(b"zero at the end\0".to_vec());
    all.push(b"\xff\xfe\x00\xd8".to_vec());
    // Where sizes are stored in one byte, two bytes, or pages.
    for length in [
        127, 128, 254, 255, 256, 257, 999, 1_000, 1_001, 4_000, 4_095, 4_096, 7_999, 8_000, 8_001, 8_193,
        16_385, 32_768, 65_534, 65_535, 65_536, 65_537, 131_073, 500_009,
    ] {
        all.push(pattern(1, length));
    }
    all.into_iter().map(Value::from).collect()
}

/// Bytes of every kind, whose period divides no page.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..=250_u8).map(|n| n.wrapping_mul(167).wrapping_add(seed)).collect();
    let mut bytes = period.repeat(length / period.len() + 1);
    bytes.truncate(length);
    bytes
}

/// The largest legal value, of which several are more than many a message.
fn large() -> Vec<Value> {
    (0..6).map(|n| Value::from(pattern(n, 1 << 20))).collect()
}

fn holding(values: Vec<Value>) -> Vec<Op> {
    values.into_iter().enumerate().map(|(n, value)| Op::put(format!("v/{n:03}"), value)).collect()
}

/// Writes values, each first as a new one and then in the place of another; some together.
async fn write_values(log: &mut Chronicle) {
    let (small, large) = (holding(values()), holding(large()));
    for ops in small.chunks(11) {
        log.write(ops.iter().cloned()).await;
    }
    for op in large.into_iter().chain(small.into_iter().rev()) {
        log.write([op]).await;
    }
    log.write(holding(large_again())).await;
}

/// As much as fits into one transaction.
fn large_again() -> Vec<Value> {
    (10..14).map(|n| Value::from(pattern(n, 300_007))).collect()
}

pub(super) async fn values_are_read(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&store).await;
    write_values(&mut log).await;
    log.write(holding(large()).into_iter().take(1)).await;
    for op in holding(large()).into_iter().skip(1) {
        log.write([op]).await;
    }
    let log = log.seen_by(other);
    log.judge_present().await;
    // And as they were.
    let every_tenth = (1..log.pages().len()).step_by(10);
    log.judge_reads_left(every_tenth, Revision::ZERO).await;
}

pub(super) async fn values_are_read_inside(cx: Fixture) {
    let store = cx.store().await;
    for op in holding(values()).into_iter().chain(holding(large()).into_iter().take(2)) {
        let Op::Put { key, value, .. } = &op else { continue };
        let read = Op::Range(Range::key(key.clone()));
        let reply = store.txn(Txn::new().then(op.clone()).then(read.clone())).await.unwrap();
        let there = Compare::Absent(key.clone());
        let later = store.txn(Txn::new().when(there).otherwise(read)).await.unwrap();
        for found in [reply.range(1), later.range(0)] {
            let found = &found.expect("the answer of a range").entries;
            let what = || format!("a value of {} bytes, read in a transaction", value.len());
            expect(what, &found.iter().map(|entry| &entry.value).collect::<Vec<_>>(), &vec![value]);
        }
    }
}

pub(super) async fn values_are_told(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    let before = log.last().revision;
    let mut live = watch(&store, Span::prefix("v/")).await;
    write_values(&mut log).await;
    log.read(&cx, &mut live, &Span::prefix("v/"), before).await.unwrap();
}

pub(super) async fn values_are_told_from_the_past(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    let before = log.last().revision;
    for ops in holding(values()).chunks(11) {
        log.write(ops.iter().cloned()).await;
    }
    for op in holding(large()).into_iter().take(3) {
        log.write([op]).await;
    }
    log.follow(&cx, Span::prefix("v/"), before).await.unwrap();
    let one = log.last().changes.iter().map(Change::key).next().cloned().expect("the last change");
    log.follow(&cx, Span::Key(one), before).await.unwrap();
}

pub(super) async fn across_reopening(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    for ops in holding(values()).chunks(11) {
        log.write(ops.iter().cloned()).await;
    }
    log.write(holding(large()).into_iter().take(1)).await;
    let all: Vec<Bytes> = siblings().into_iter().chain(long_siblings()).collect();
    for keys in all.chunks(97) {
        log.write(keys.iter().map(|key| Op::put(key.clone(), key.clone()))).await;
    }
    for keys in all.chunks(97) {
        log.write(keys.iter().step_by(3).map(|key| Op::delete(key.clone()))).await;
    }
    cx.reopen().await;
    let log = log.seen_by(cx.store().await);
    log.judge_present().await;
}
