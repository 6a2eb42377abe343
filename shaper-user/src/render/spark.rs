//! Sparklines out of the block elements (U+2581 and on).

/// Eighths of a cell.
pub const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line of one character a cell. Nothing heard is blank; nothing sent is the
/// lowest bar; any traffic is above it. The highest leaves an eighth free, so
/// that the lines of a table don't grow into one another.
#[must_use]
pub fn sparkline(cells: &[Option<u64>]) -> String {
    let top = cells.iter().flatten().copied().max().unwrap_or(0).max(1);
    cells
        .iter()
        .map(|cell| match cell {
            None => ' ',
            Some(0) => EIGHTHS[1],
            Some(n) => EIGHTHS[1 + part(*n, top, 6).max(1)],
        })
        .collect()
}

/// `n / top × steps`, rounded up, at most `steps`.
#[must_use]
pub fn part(n: u64, top: u64, steps: u64) -> usize {
    let part = (u128::from(n) * u128::from(steps)).div_ceil(u128::from(top.max(1)));
    usize::try_from(part.min(u128::from(steps))).unwrap_or(0)
}
