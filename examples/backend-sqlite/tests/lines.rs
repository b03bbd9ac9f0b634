//! How much a backend is to write.

/// A persistent backend for several processes takes at most 400 lines, and the guide says how many
/// it takes.
#[test]
fn the_store_has_at_most_four_hundred_lines_and_the_guide_tells_how_many() {
    let lines: Vec<&str> = include_str!("../src/lib.rs").lines().map(str::trim_start).collect();
    assert!(lines.len() <= 400, "{} lines", lines.len());
    let code = lines.iter().filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    let told = format!("has {code} lines of code, and {} with its comments", lines.len());
    let guide = coord_api::guide::TEXT.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(guide.contains(&told), "the guide does not say: {told}");
}
