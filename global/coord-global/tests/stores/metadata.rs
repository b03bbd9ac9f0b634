//! Files as callers of the API see them.

use std::sync::Arc;

use coord_global::ledger::LedgerError;
use coord_global::metadata::{Change, File, Metadata, MetadataError, NewFile};
use coord_global::model::{EditId, NodeId, Refusal, RegionId, RelPath};
use coord_global::simulation::{Fate, Faulty};

use crate::region::{blob, memory, next, open};

fn path(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

fn edit() -> EditId {
    EditId::from(next())
}

fn new(at: &str, content: u8) -> NewFile {
    NewFile::new(path(at), blob(content), RegionId::new("a").unwrap())
}

fn content(content: u8) -> Change {
    Change { content: Some(blob(content)), ..Change::default() }
}

fn to(at: &str) -> Change {
    Change { path: Some(path(at)), ..Change::default() }
}

async fn files(store: &Arc<Faulty>) -> Metadata {
    let ledger = open(store).await;
    for content in 0..10 {
        ledger.put_content(&blob(content).hash, "x").await.unwrap();
    }
    Metadata::new(ledger)
}

async fn paths(files: &Metadata, directory: &str) -> Vec<String> {
    let mut all: Vec<File> = Vec::new();
    let mut after = None;
    loop {
        let (page, next) = files.list(directory, after.as_ref(), 2).await.unwrap();
        all.extend(page);
        after = match next {
            Some(next) => Some(next),
            None => break,
        };
    }
    all.into_iter().map(|file| file.version.path.as_str().to_owned()).collect()
}

#[tokio::test]
async fn files_are_registered_changed_and_deleted() {
    let files = files(&memory()).await;
    let file = files.register(edit(), new("docs/a", 1)).await.unwrap();
    assert_eq!((file.version.content, file.in_conflict), (Some(blob(1)), 0));
    assert_eq!(files.get(file.id).await.unwrap(), file);
    assert_eq!(files.at_path(&path("DOCS/A")).await.unwrap().unwrap().id, file.id);
    // The same again is that file, another one is refused.
    assert_eq!(files.register(edit(), new("docs/a", 1)).await.unwrap().id, file.id);
    let taken = files.register(edit(), new("Docs/A", 2)).await.unwrap_err();
    assert!(matches!(taken, MetadataError::AlreadyExists { by: Some(by), .. } if by == file.id), "{taken}");

    let changed = files.update(edit(), file.id, &file.context, content(2)).await.unwrap();
    assert_eq!(changed.version.content, Some(blob(2)));
    let meta = Change { meta: Some([("owner".to_owned(), "me".to_owned())].into()), ..Change::default() };
    let noted = files.update(edit(), file.id, &changed.context, meta).await.unwrap();
    assert_eq!((noted.version.content, &noted.version.meta["owner"][..]), (Some(blob(2)), "me"));
    // What is so already is Ok, whatever was seen.
    assert_eq!(files.update(edit(), file.id, &file.context, content(2)).await.unwrap(), noted);

    files.delete(edit(), file.id, &noted.context).await.unwrap();
    files.delete(edit(), file.id, &noted.context).await.unwrap();
    for gone in [
        files.get(file.id).await.unwrap_err(),
        files.update(edit(), file.id, &noted.context, content(3)).await.unwrap_err(),
        files.delete(edit(), NodeId::from([9; 16]), &noted.context).await.unwrap_err(),
    ] {
        assert!(matches!(gone, MetadataError::NotFound { .. }), "{gone}");
    }
    assert_eq!(files.at_path(&path("docs/a")).await.unwrap(), None);
    // The same content at the same path is another file than the deleted one.
    let again = files.register(edit(), new("docs/a", 1)).await.unwrap();
    assert_ne!(again.id, file.id);
    let missing = files.register(edit(), new("b", 77)).await.unwrap_err();
    assert!(
        matches!(missing, MetadataError::Ledger(LedgerError::Refused(Refusal::ContentMissing { .. }))),
        "{missing}"
    );
}

#[tokio::test]
async fn who_has_not_seen_what_there_is_is_told() {
    let files = files(&memory()).await;
    let file = files.register(edit(), new("f", 1)).await.unwrap();
    let changed = files.update(edit(), file.id, &file.context, content(2)).await.unwrap();
    for change in [content(3), to("g")] {
        match files.update(edit(), file.id, &file.context, change).await {
            Err(MetadataError::Stale { file }) => assert_eq!(*file, changed),
            other => panic!("{other:?}"),
        }
    }
    let stale = files.delete(edit(), file.id, &file.context).await;
    assert!(matches!(stale, Err(MetadataError::Stale { .. })), "{stale:?}");
    // A context from the future would swallow what is still to come.
    let mut future = changed.context.clone();
    let (actor, seq) = changed.context.iter().next().map(|(actor, seq)| (actor.clone(), seq)).unwrap();
    future.insert(&coord_global::model::Dot::new(actor, seq + 5));
    let refused = files.update(edit(), file.id, &future, content(4)).await.unwrap_err();
    assert!(
        matches!(refused, MetadataError::Ledger(LedgerError::Refused(Refusal::Future { .. }))),
        "{refused}"
    );
    // Or it is kept as a conflict, which ends when somebody has seen all of it.
    let kept = Change { keep_conflict: true, ..content(5) };
    let kept = files.update(edit(), file.id, &file.context, kept).await.unwrap();
    assert_eq!((kept.in_conflict, kept.version.content), (1, Some(blob(5))));
    let ended = files.update(edit(), file.id, &kept.known, content(6)).await.unwrap();
    assert_eq!((ended.in_conflict, ended.version.content), (0, Some(blob(6))));
}

/// A write that is asked for again is answered and does nothing: after others have edited the file,
/// after a lost answer, and at another instance.
#[tokio::test]
async fn what_is_asked_for_again_is_done_once() {
    let store = memory();
    let (one, other) = (files(&store).await, files(&store).await);
    let (first, second) = (edit(), edit());
    store.set(|| Fate::AnswerLost);
    let _ = one.register(first, new("f", 1)).await;
    store.set(|| Fate::Arrives);
    let file = other.register(first, new("f", 1)).await.unwrap();
    let changed = one.update(second, file.id, &file.context, content(2)).await.unwrap();
    assert_eq!(other.update(second, file.id, &file.context, content(2)).await.unwrap(), changed);
    let later = one.update(edit(), file.id, &changed.context, content(3)).await.unwrap();
    assert_eq!(other.update(second, file.id, &file.context, content(2)).await.unwrap(), later);
    let kept = Change { keep_conflict: true, ..content(2) };
    assert_eq!(other.update(second, file.id, &file.context, kept).await.unwrap(), later);
    assert_eq!(other.register(first, new("f", 1)).await.unwrap(), later);
    assert_eq!(later.in_conflict, 0);
}

/// A path is given once, however many ask for it at the same time, at however many instances; and
/// no file where a directory is, nor the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_path_is_given_once() {
    let store = memory();
    let instances = [files(&store).await, files(&store).await, files(&store).await];
    for round in 0..20 {
        let mut tasks = Vec::new();
        for n in 0..9_u8 {
            let files = instances[usize::from(n) % 3].clone();
            let at = match n % 3 {
                0 => format!("r{round}/x"),
                1 => format!("R{round}/X"),
                _ => format!("r{round}/x/below"),
            };
            tasks.push(tokio::spawn(async move { files.register(edit(), new(&at, n)).await }));
        }
        let mut made = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => made += 1,
                Err(MetadataError::AlreadyExists { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(made, 1, "round {round}");
    }
    assert_eq!(paths(&instances[0], "").await.len(), 20);
}

/// Also where those who ask share one append.
#[tokio::test]
async fn who_shares_an_append_shares_no_path() {
    let files = files(&memory()).await;
    // The first one is on its way while the others come.
    let (first, one, other, below) = tokio::join!(
        files.register(edit(), new("first", 1)),
        files.register(edit(), new("p/x", 2)),
        files.register(edit(), new("P/X", 3)),
        files.register(edit(), new("p/x/below", 4)),
    );
    first.unwrap();
    one.unwrap();
    for refused in [other, below] {
        assert!(matches!(refused, Err(MetadataError::AlreadyExists { .. })), "{refused:?}");
    }
    assert_eq!(paths(&files, "").await, ["first", "p/x"]);
}

#[tokio::test]
async fn a_rename_takes_a_free_path_alone() {
    let files = files(&memory()).await;
    let file = files.register(edit(), new("docs/a", 1)).await.unwrap();
    files.register(edit(), new("docs/b", 2)).await.unwrap();
    for (at, by) in [("docs/B", true), ("docs", false), ("docs/b/c", false)] {
        match files.update(edit(), file.id, &file.context, to(at)).await {
            Err(MetadataError::AlreadyExists { by: other, .. }) => assert_eq!(other.is_some(), by, "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    // A rename of its case alone is its own path.
    let renamed = files.update(edit(), file.id, &file.context, to("Docs/A")).await.unwrap();
    assert_eq!(renamed.version.path.as_str(), "Docs/A");
    files.update(edit(), file.id, &renamed.context, to("other/a")).await.unwrap();
    assert_eq!(paths(&files, "docs").await, ["docs/b"]);
    assert_eq!(paths(&files, "").await, ["docs/b", "other/a"]);
}

#[tokio::test]
async fn a_list_is_in_the_order_of_paths_and_of_one_directory() {
    let files = files(&memory()).await;
    for at in ["docs2/x", "docs/b", "docs/A", "docs-1", "docs/c/d", "docs.txt"] {
        files.register(edit(), new(at, 1)).await.unwrap();
    }
    assert_eq!(paths(&files, "DOCS").await, ["docs/A", "docs/b", "docs/c/d"]);
    assert_eq!(paths(&files, "docs/c").await, ["docs/c/d"]);
    assert_eq!(paths(&files, "docs/c/d").await, [] as [String; 0], "a file is no directory");
    assert_eq!(paths(&files, "").await.len(), 6);
    let ids: Vec<NodeId> = files.list("docs", None, 10).await.unwrap().0.iter().map(|file| file.id).collect();
    let some = [ids[2], NodeId::from([1; 16]), ids[0]];
    let read: Vec<NodeId> = files.batch_get(&some).await.unwrap().iter().map(|file| file.id).collect();
    assert_eq!(read, [ids[2], ids[0]]);
}
