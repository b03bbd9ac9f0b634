//! The table of URLs: what each one opens, or what its author is told to write instead. Whoever
//! wants to know what a URL means looks here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use coord::{ErrorKind, Source};

/// What must not appear in any error: it stands where people put passwords.
const SECRET: &str = "hunter2";

#[derive(Clone, Copy, Debug)]
enum Then {
    /// It opens this, in one spelling.
    Opens(&'static str),
    /// It is refused, in words with these in them.
    Says(&'static str),
}
use Then::{Opens, Says};

/// Of every store, so that these are refused whatever was built in.
const ANY: &[(&str, Then)] = &[
    // ---- nothing ----
    ("", Says("write for example `memory://`")),
    (" ", Says("take it away")),
    // ---- scheme ----
    ("memory", Says("no scheme; write `memory://`")),
    ("://", Says("unknown scheme")),
    (":memory:", Says("unknown scheme")),
    ("localhost", Says("`etcd://host:2379`")),
    ("localhost:2379", Says("a host without a scheme; write `etcd://host:2379`")),
    ("db-1:2379/shop", Says("a host without a scheme; write `etcd://host:2379`")),
    ("/var/lib/shop", Says("`sled:///var/lib/shop`")),
    ("./shop", Says("`sled:///var/lib/shop`")),
    ("~/shop", Says("`sled:///var/lib/shop`")),
    ("file:///var/lib/shop", Says("`sled:///var/lib/shop`")),
    ("http://db-1:2379", Says("`etcd://host:2379`")),
    ("https://db-1:2379", Says("`etcds://host:2379`")),
    ("redis://db-1:6379", Says("unknown scheme")),
    ("etcd+tls://db-1:2379", Says("unknown scheme")),
    ("etc%64://db-1:2379", Says("unknown scheme")),
    ("hunter2:etcd://db-1:2379", Says("unknown scheme")),
    ("\"memory://\"", Says("a quotation mark; take it away")),
    ("'memory://'", Says("a quotation mark; take it away")),
    // ---- white space, control characters, what is not ASCII ----
    (" memory://", Says("white space around the URL; take it away")),
    ("memory://\n", Says("white space around the URL; take it away")),
    ("memory://\r\n", Says("white space around the URL; take it away")),
    ("memory://\u{a0}", Says("white space around the URL; take it away")),
    ("etcd://h1:2379, h2:2379", Says("white space or a control character; write a space as `%20`")),
    ("sled:///var/lib/my shop", Says("write a space as `%20`")),
    ("sled:///var/lib/a\tb", Says("white space or a control character")),
    ("sled:///var/lib/a\0b", Says("white space or a control character")),
    ("\u{feff}memory://", Says("not of ASCII")),
    ("memory:\u{200b}//", Says("not of ASCII")),
    ("etcd://dé:2379", Says("`%C3%A9`")),
    ("sled:///var/lib/bücher", Says("write its UTF-8 in percent-escapes")),
    // ---- what shells, templates and other systems leave behind ----
    ("etcd://$HOSTS/shop", Says("a variable that nothing was put in for")),
    ("etcd://${HOSTS}/shop", Says("a variable that nothing was put in for")),
    ("etcd://{{ hosts }}", Says("a variable that nothing was put in for")),
    ("sled:///$HOME/shop", Says("a variable that nothing was put in for")),
    ("sled:C:\\shop", Says("write `/`")),
    ("etcd://<host>:2379", Says("a character that no URL has")),
    // ---- a password, wherever it stands ----
    (
        "etcd://shop:hunter2@db-1:2379",
        Says("a password in the URL; it belongs into the file that `password_file` names"),
    ),
    ("etcds://shop:hunter2@db-1:2379/shop", Says("COORD_ETCD_PASSWORD")),
    ("ETCD://shop:hunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://:hunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://shop:@db-1:2379", Says("a password in the URL")),
    ("etcd://shop%3Ahunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://shop:2379/hunter2@db-1:2379/shop", Says("password")),
    ("etcd://shop:hun/ter/hunter2@db-1:2379", Says("password")),
    ("etcd://shop:a?b=hunter2@db-1:2379", Says("password")),
    ("etcd://shop:a#hunter2@db-1:2379", Says("password")),
    ("etcd://shop:a@hunter2@db-1:2379", Says("password")),
    ("etcd://shop:a b hunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://shop:$hunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://shop:ühunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://shop:%hunter2@db-1:2379", Says("a password in the URL")),
    ("etcd://db-1:2379,shop:hunter2@db-2:2379", Says("a password in the URL")),
    ("etcd:shop:hunter2@db-1:2379", Says("password")),
    ("etcd:/shop:hunter2@db-1:2379", Says("password")),
    ("etcd:///shop:hunter2@db-1:2379", Says("password")),
    ("etcd://db-1:2379/shop:hunter2@x", Says("password")),
    ("etcd://db-1:2379?x=shop:hunter2@x", Says("password")),
    ("memory://shop:hunter2@", Says("password")),
    ("sled://shop:hunter2@/var/lib/shop", Says("password")),
    ("sled:///shop:hunter2@db/dir", Says("password")),
    ("redis://shop:hunter2@db-1:6379", Says("password")),
    ("shop:hunter2@db-1:2379", Says("password")),
];

#[cfg(feature = "memory")]
const MEMORY: &[(&str, Then)] = &[
    ("memory://", Opens("memory://")),
    ("memory:", Opens("memory://")),
    ("memory:///", Opens("memory://")),
    ("MEMORY://", Opens("memory://")),
    ("Memory:", Opens("memory://")),
    ("memory://?name=test", Opens("memory://")),
    ("memory://?namespace=shop", Opens("memory://?namespace=shop")),
    ("memory:?namespace=team/shop&name=a%20b", Opens("memory://?namespace=team/shop")),
    ("memory://shop", Says("write `memory://`")),
    ("memory:shop", Says("write `memory://`")),
    ("memory:/shop", Says("write `memory://`")),
    ("memory:///shop", Says("write `memory://`")),
    ("memory://localhost:2379", Says("write `memory://`")),
    ("memory://shop@", Says("a user, where nobody signs in")),
    ("memory://#hunter2", Says("`%23`")),
    ("memory://?", Says("an empty parameter")),
    ("memory://?&", Says("an empty parameter")),
    ("memory://?=x", Says("an empty parameter")),
    ("memory://?hunter2", Says("unknown parameter; `memory:` knows name, namespace")),
    ("memory://?lazy", Says("unknown parameter; `memory:` knows name, namespace")),
    ("memory://?Name=x", Says("unknown parameter; `memory:` knows name, namespace")),
    ("memory://?password=hunter2", Says("a password in the URL")),
    ("memory://?name", Says("`name` without a value")),
    ("memory://?name=", Says("`name` without a value")),
    ("memory://?name=a&name=b", Says("`name` stands there twice")),
    ("memory://?name=a&n%61me=b", Says("`name` stands there twice")),
    ("memory://?name=a=hunter2", Says("write `%3D`")),
    ("memory://?name=a?lazy", Says("write `%3F`")),
    ("memory://?name=a;namespace=b", Says("write `%3B`")),
    ("memory://?name=a+b", Says("write `%2B`, or `%20` for a space")),
    ("memory://?name=%", Says("write `%25`")),
    ("memory://?name=%2", Says("write `%25`")),
    ("memory://?name=%zz", Says("write `%25`")),
    ("memory://?name=%ff", Says("not UTF-8")),
    ("memory://?name=a%00b", Says("a control character")),
    ("memory://?namespace=a%2Fb", Says("`%2F`")),
    ("memory://?namespace=/shop", Says("a `/` at an end of the namespace")),
    ("memory://?namespace=shop/", Says("a `/` at an end of the namespace")),
    ("memory://?namespace=a//b", Says("empty segment")),
    ("memory://?namespace=a/../b", Says("`..`")),
    ("memory://?namespace=config", Says("a directory of the recipes")),
    ("memory://?namespace=global", Says("a directory of the recipes")),
];

/// `DIR` stands for a directory of the test's own, which is the working directory too.
#[cfg(feature = "sled")]
const SLED: &[(&str, Then)] = &[
    ("sled://DIR/a", Opens("sled:DIR/a")),
    ("sled:DIR/b", Opens("sled:DIR/b")),
    ("SLED://DIR/c/", Opens("sled:DIR/c")),
    ("sled://DIR/deep/er", Opens("sled:DIR/deep/er")),
    ("sled:./d", Opens("sled:./d")),
    ("sled:./d/e/", Opens("sled:./d/e")),
    ("sled:./../DIRNAME/f", Opens("sled:./../DIRNAME/f")),
    ("sled:../DIRNAME/g", Opens("sled:../DIRNAME/g")),
    ("sled:./my%20shop", Opens("sled:./my%20shop")),
    ("sled:./b%C3%BCcher", Opens("sled:./b%C3%BCcher")),
    ("sled:./a%40b%3a1", Opens("sled:./a%40b%3A1")),
    ("sled:./%7Eshop", Opens("sled:./%7Eshop")),
    ("sled:./h?namespace=team/a&name=test", Opens("sled:./h?namespace=team/a")),
    // ---- no directory, or one that is not the store's alone ----
    ("sled:", Says("no directory; write `sled:///var/lib/shop`")),
    ("sled://", Says("no directory; write `sled:///var/lib/shop`")),
    ("sled:///", Says("no directory; write `sled:///var/lib/shop`")),
    ("sled:/", Says("no directory; write `sled:///var/lib/shop`")),
    ("sled:.", Says("not the store's alone")),
    ("sled:./", Says("not the store's alone")),
    ("sled:..", Says("not the store's alone")),
    ("sled:../..", Says("not the store's alone")),
    // ---- from the root, or from the working directory? ----
    (
        "sled:shop",
        Says("from the root write `sled:///var/lib/shop`, from the working directory `sled:./shop`"),
    ),
    ("sled:var/lib/shop", Says("from the root write")),
    ("sled:.shop", Says("from the root write")),
    ("sled://shop", Says("a host, which a directory has not; from the root write")),
    ("sled://var/lib/shop", Says("a host, which a directory has not; from the root write")),
    ("sled://./shop", Says("from the working directory `sled:./shop`")),
    ("sled://../shop", Says("from the working directory `sled:./shop`")),
    ("sled://localhost/var/lib/shop", Says("a host, which a directory has not")),
    ("sled://db-1:2379/shop", Says("a host, which a directory has not")),
    ("sled://shop@/var/lib/shop", Says("a user, where nobody signs in")),
    // ---- home directories ----
    ("sled:~", Says("write the home directory itself")),
    ("sled:~/shop", Says("write the home directory itself")),
    ("sled://~/shop", Says("write the home directory itself")),
    ("sled:///~/shop", Says("write the home directory itself")),
    ("sled:///~shop/db", Says("write the home directory itself")),
    ("sled:./~/shop", Says("write the home directory itself")),
    // ---- paths that are not what they look like ----
    ("sled:////var/lib/shop", Says("a doubled `/`")),
    ("sled:///var//shop", Says("a doubled `/`")),
    ("sled:///var/shop//", Says("a doubled `/`")),
    ("sled:///var/../shop", Says("a `.` or `..` on the way")),
    ("sled:///var/./shop", Says("a `.` or `..` on the way")),
    ("sled:///var/%2E%2e/shop", Says("a `.` or `..` on the way")),
    ("sled:./a/../b", Says("a `.` or `..` on the way")),
    ("sled:///..", Says("a `.` or `..` on the way")),
    ("sled:///var%2Fshop", Says("`%2F`")),
    ("sled:///var/a%00b", Says("a control character")),
    ("sled:///var/a%0Ab", Says("a control character")),
    ("sled:///var/a%7fb", Says("a control character")),
    ("sled:///var/a%c2%85b", Says("a control character")),
    ("sled:///var/%ff", Says("not UTF-8")),
    ("sled:///var/100%", Says("write `%25`")),
    ("sled:///var/a:b", Says("write `%3A`")),
    ("sled:///var/a&name=b", Says("write `%26`")),
    ("sled:///var/a=b", Says("write `%3D`")),
    ("sled:///var/shop#1", Says("write `%23`")),
    ("sled:///var/a@b", Says("write `%40`")),
    // ---- parameters ----
    ("sled:///var/shop?", Says("an empty parameter")),
    ("sled:///var/shop?lazy", Says("unknown parameter; `sled:` knows name, namespace")),
    ("sled:///var/shop?password=hunter2", Says("a password in the URL")),
    ("sled:./never-made?namespace=config", Says("a directory of the recipes")),
    ("sled:./never-made?namespace=shop/global", Says("a directory of the recipes")),
];

#[cfg(feature = "etcd")]
const ETCD: &[(&str, Then)] = &[
    ("etcd://localhost:2379", Opens("etcd://localhost:2379")),
    ("etcd://h1:2379,h2:2380,h3:2379", Opens("etcd://h1:2379,h2:2380,h3:2379")),
    ("etcds://h1:2379", Opens("etcds://h1:2379")),
    ("ETCDS://H1:2379", Opens("etcds://H1:2379")),
    ("etcd://10.0.0.1:2379", Opens("etcd://10.0.0.1:2379")),
    ("etcd://[::1]:2379,[2001:db8::1]:2379", Opens("etcd://[::1]:2379,[2001:db8::1]:2379")),
    ("etcd://db_1.prod.svc.cluster.local.:2379", Opens("etcd://db_1.prod.svc.cluster.local.:2379")),
    ("etcd://xn--bcher-kva.example:2379", Opens("etcd://xn--bcher-kva.example:2379")),
    ("etcd://1.2.3.4.example:2379", Opens("etcd://1.2.3.4.example:2379")),
    ("etcd://h:1/", Opens("etcd://h:1")),
    ("etcd://h:1/shop", Opens("etcd://h:1/shop")),
    ("etcd://h:1/team/shop", Opens("etcd://h:1/team/shop")),
    ("etcd://h:1?namespace=team/shop", Opens("etcd://h:1/team/shop")),
    ("etcd://h:1/?namespace=shop", Opens("etcd://h:1/shop")),
    ("etcd://h:1/my%20shop/b%C3%BCcher", Opens("etcd://h:1/my%20shop/b%C3%BCcher")),
    ("etcd://h:1/a%3a%2cb", Opens("etcd://h:1/a%3A%2Cb")),
    ("etcd://h:1/shop?lazy", Opens("etcd://h:1/shop")),
    ("etcd://h:1/shop?lazy=false&name=test&connect_timeout=5s&attempts=2", Opens("etcd://h:1/shop")),
    ("etcds://h:1?server_name=etcd.example", Opens("etcds://h:1")),
    // ---- `//` ----
    ("etcd:db-1:2379/shop", Says("no `//` before the hosts; write `etcd://host:2379`")),
    ("etcd:/db-1:2379/shop", Says("no `//` before the hosts; write `etcd://host:2379`")),
    ("etcds:db-1:2379", Says("no `//` before the hosts; write `etcds://host:2379`")),
    ("etcd:", Says("no `//` before the hosts")),
    ("etcd:///db-1:2379/shop", Says("no host; write `etcd://localhost:2379`")),
    ("etcd:///shop", Says("no host; write `etcd://localhost:2379`")),
    ("etcd://", Says("no host; write `etcd://localhost:2379`")),
    ("etcds:///", Says("no host; write `etcds://localhost:2379`")),
    ("etcd:////db-1:2379", Says("no host")),
    ("etcd://?lazy", Says("no host")),
    // ---- hosts ----
    ("etcd://db-1", Says("a host without a port; write `host:2379`")),
    ("etcd://db-1/shop", Says("a host without a port; write `host:2379`")),
    ("etcd://db-1:2379,db-2/shop", Says("a host without a port; write `host:2379`")),
    ("etcd://[::1]", Says("a host without a port")),
    ("etcd://http://localhost:2379", Says("a scheme before a host")),
    ("etcds://https://localhost:2379", Says("a scheme before a host")),
    ("etcd://etcd://localhost:2379", Says("a scheme before a host")),
    ("etcd://h1:2379,http://h2:2379", Says("a scheme before a host")),
    ("etcd://h1:2379,etcd://h2:2379", Says("a scheme before a host")),
    ("etcd://h1:2379,", Says("an empty host")),
    ("etcd://,h1:2379", Says("an empty host")),
    ("etcd://h1:2379,,h2:2379", Says("an empty host")),
    ("etcd://h1:2379,h1:2379", Says("a host that stands there twice")),
    ("etcd://h1:2379,H1:2379", Says("a host that stands there twice")),
    ("etcd://h1:2379;h2:2379", Says("one `,` between two")),
    ("etcd://h1:2379|h2:2379", Says("a character that no URL has")),
    ("etcd://h1:2379/h2:2379", Says("all hosts stand before the first `/`")),
    ("etcd://h1:2379/shop,h2:2379/shop", Says("all hosts stand before the first `/`")),
    ("etcd://:2379", Says("no name of a host")),
    ("etcd://-db:2379", Says("no name of a host")),
    ("etcd://db..prod:2379", Says("no name of a host")),
    ("etcd://db*:2379", Says("no name of a host")),
    ("etcd://db%2D1:2379", Says("no name of a host")),
    ("etcd://db-1%3A2379", Says("no name of a host")),
    ("etcd://h1%2Ch2:2379", Says("no name of a host")),
    ("etcd://::1:2379", Says("IPv6 as `[2001:db8::1]:2379`")),
    ("etcd://2001:db8::1:2379", Says("IPv6 as `[2001:db8::1]:2379`")),
    ("etcd://[::1:2379", Says("a `[` without a `]`")),
    ("etcd://[fe80::1%25eth0]:2379", Says("without a zone")),
    ("etcd://[10.0.0.1]:2379", Says("no IPv6 address between `[` and `]`")),
    ("etcd://[h1]:2379", Says("no IPv6 address between `[` and `]`")),
    ("etcd://[::]:2379", Says("the address that a server listens on")),
    ("etcd://0.0.0.0:2379", Says("the address that a server listens on")),
    ("etcd://10.0.0.256:2379", Says("no IPv4 address")),
    ("etcd://10.1:2379", Says("no IPv4 address")),
    ("etcd://010.0.0.1:2379", Says("no IPv4 address")),
    ("etcd://0x7f000001:2379", Says("no IPv4 address")),
    ("etcd://2130706433:2379", Says("no IPv4 address")),
    // ---- ports ----
    ("etcd://h:0", Says("a port that is no number from 1 to 65535")),
    ("etcd://h:65536", Says("a port that is no number from 1 to 65535")),
    ("etcd://h:etcd", Says("a port that is no number from 1 to 65535")),
    ("etcd://h:+1", Says("a port that is no number from 1 to 65535")),
    ("etcd://h:02379", Says("a port that is no number from 1 to 65535")),
    ("etcd://h:", Says("a `:` without a port")),
    ("etcd://[::1]:", Says("a `:` without a port")),
    ("etcd://[::1]2379", Says("a host without a port")),
    // ---- namespaces ----
    ("etcd://h:1/shop/", Says("a `/` at the end of the namespace")),
    ("etcd://h:1//shop", Says("a doubled `/`")),
    ("etcd://h:1//", Says("a `/` at the end of the namespace")),
    ("etcd://h:1/a//b", Says("a doubled `/`")),
    ("etcd://h:1/a/../b", Says("a `.` or `..`")),
    ("etcd://h:1/%2e", Says("a `.` or `..`")),
    ("etcd://h:1/a%2Fb", Says("`%2F`")),
    ("etcd://h:1/a%0ab", Says("a control character")),
    ("etcd://h:1/%e9", Says("not UTF-8")),
    ("etcd://h:1/100%", Says("write `%25`")),
    ("etcd://h:1/shop&lazy", Says("write `%26`")),
    ("etcd://h:1/shop;lazy", Says("write `%3B`")),
    ("etcd://h:1/team@shop", Says("write `%40`")),
    ("etcd://h:1/config", Says("a directory of the recipes")),
    ("etcd://h:1/global", Says("a directory of the recipes")),
    ("etcd://h:1/team/locks", Says("a directory of the recipes")),
    ("etcd://h:1?namespace=sessions", Says("a directory of the recipes")),
    ("etcd://h:1/a?namespace=a", Says("two namespaces")),
    // ---- users ----
    ("etcd://@h:1", Says("an `@` without a user")),
    ("etcd://shop@", Says("no host")),
    ("etcd://shop", Says("a host without a port")),
    ("etcd://a@b@h:1", Says("password")),
    ("etcd://shop@h:1,shop@h2:1", Says("password")),
    ("etcd://sh%op@h:1", Says("write `%25`")),
    (
        "etcd://shop@h:1",
        Says("a user, but no password: name a file in `password_file` or COORD_ETCD_PASSWORD_FILE"),
    ),
    ("etcd://h:1?password_file=/hunter2", Says("a file with a password, but no user")),
    ("etcd://shop@h:1?password_file=/no/hunter2", Says("the file with the password cannot be read")),
    ("etcd://shop@h:1?password_file=~/hunter2", Says("write the home directory itself")),
    // ---- fragment ----
    ("etcd://h:1#hunter2", Says("write `%23`")),
    ("etcd://h:1/shop#lazy", Says("write `%23`")),
    // ---- parameters ----
    ("etcd://h:1?password=hunter2", Says("a password in the URL; it belongs into the file")),
    ("etcd://h:1?PASSWORD=hunter2", Says("a password in the URL")),
    ("etcd://h:1?pwd=hunter2", Says("a password in the URL")),
    ("etcd://h:1?token=hunter2", Says("a password in the URL")),
    ("etcd://h:1?hunter2=1", Says("unknown parameter; `etcd:` knows attempt_timeout, ")),
    ("etcds://h:1?hunter2", Says("unknown parameter; `etcds:` knows attempt_timeout, ")),
    ("etcd://h:1?timeout=5s", Says("connect_timeout")),
    ("etcd://h:1?", Says("an empty parameter")),
    ("etcd://h:1?lazy&", Says("an empty parameter")),
    ("etcd://h:1?lazy&lazy", Says("`lazy` stands there twice")),
    ("etcd://h:1?lazy=yes", Says("`lazy` is neither `true` nor `false`")),
    ("etcd://h:1?lazy=", Says("`lazy` is neither `true` nor `false`")),
    ("etcd://h:1?connect_timeout", Says("`connect_timeout` without a value")),
    ("etcd://h:1?connect_timeout=", Says("`connect_timeout` without a value")),
    ("etcd://h:1?connect_timeout=5", Says("write a time such as `500ms`")),
    ("etcd://h:1?connect_timeout=5%20s", Says("write a time such as `500ms`")),
    ("etcd://h:1?connect_timeout=1s&connect_timeout=2s", Says("`connect_timeout` stands there twice")),
    ("etcd://h:1?attempts=many", Says("write a number")),
    ("etcd://h:1?ca=/etc/ca.pem", Says("write `etcds://`")),
    ("etcds://h:1?ca=/no/hunter2", Says("the file that `ca` names cannot be read")),
    ("etcds://h:1?cert=/a.pem", Says("one of `cert` and `key`; write both")),
];

fn table() -> Vec<(&'static str, Then)> {
    let mut table = ANY.to_vec();
    #[cfg(feature = "memory")]
    table.extend(MEMORY);
    #[cfg(feature = "sled")]
    table.extend(SLED);
    #[cfg(feature = "etcd")]
    table.extend(ETCD);
    table
}

#[tokio::test]
async fn each_url_opens_what_the_table_says_or_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    std::env::set_current_dir(directory.path()).unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    let name = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
    let filled = |text: &str| text.replace("DIRNAME", &name).replace("DIR", &path);
    let mut wrong = Vec::new();
    for (url, then) in table() {
        let url = filled(url);
        match then {
            Opens(wanted) => match Source::open(&url).await {
                Ok(source) if source.to_string() == filled(wanted) => {
                    let again = source.to_string();
                    drop(source);
                    // What it is displayed as is a URL of the same store.
                    assert_eq!(Source::open(&again).await.unwrap().to_string(), again);
                }
                other => wrong.push(format!("{url:?} should open {wanted:?}, and is {other:?}")),
            },
            Says(words) => {
                let error = match coord::open(&url).await {
                    Ok(_) => {
                        wrong.push(format!("{url:?} should be refused ({words}), and opens"));
                        continue;
                    }
                    Err(error) => error,
                };
                let text = error.to_string();
                if error.kind() != ErrorKind::InvalidArgument || !text.contains(words) {
                    wrong.push(format!("{url:?} should say {words:?}, and says {text:?}"));
                }
                if format!("{error:?} {text}").contains(SECRET) {
                    wrong.push(format!("{url:?} is repeated: {text:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!directory.path().join("never-made").exists(), "refused before any I/O");
}
