//! Which columns a width has room for.

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The client; of a flow, with its port.
    Client,
    /// The local port and protocol; with room, the address too.
    Local,
    /// The rule.
    Rule,
    /// Connections.
    Connections,
    /// Upload rate.
    Up,
    /// Download rate.
    Down,
    /// The limit that is nearest.
    Limit,
    /// Percent of it.
    Use,
    /// Whether and how long it was held.
    Held,
    /// Bytes dropped.
    Dropped,
    /// Bytes passed.
    Total,
    /// Since when it is known.
    Age,
    /// Since its last packet.
    Idle,
    /// How much of its quota a client has used, and when that resets.
    Quota,
    /// The last minute.
    Minute,
    /// The server that a flow is pinned to.
    Server,
    /// A server with its backend.
    Name,
    /// A server's part of what its backend carries.
    Load,
    /// How uneven its backend is.
    Imbalance,
    /// The client that moves most there.
    Top,
    /// That client's part.
    Share,
}

/// A column before it has a place.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What it shows.
    pub what: What,
    /// Its title.
    pub title: &'static str,
    /// Cells it needs.
    pub least: u16,
    /// Cells it can use.
    pub most: u16,
    /// Whether it is aligned to the right.
    pub right: bool,
    /// The lowest stay when there is no room for all.
    pub rank: u8,
}

/// A column in its place.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// The column.
    pub column: Column,
    /// Its first cell, counted from the left of the table.
    pub x: u16,
    /// Its cells.
    pub width: u16,
}

const fn column(
    what: What,
    title: &'static str,
    rank: u8,
    (least, most): (u16, u16),
    right: bool,
) -> Column {
    Column {
        what,
        title,
        least,
        most,
        right,
        rank,
    }
}

/// The columns of the clients tab; `name` is the longest client, `rule` the
/// longest rule on the screen; `quota` whether anybody there has one.
pub fn clients(name: u16, rule: u16, quota: bool) -> Vec<Column> {
    let name = name.max(15);
    let mut columns = vec![
        column(What::Client, "CLIENT", 0, (name.min(26), name), false),
        column(
            What::Rule,
            "RULE",
            9,
            (rule.clamp(8, 10), rule.max(8)),
            false,
        ),
        column(What::Connections, "CONN", 8, (4, 6), true),
        column(What::Up, "UP", 1, (11, 11), true),
        column(What::Down, "DOWN", 2, (11, 11), true),
        column(What::Limit, "LIMIT", 7, (7, 13), true),
        column(What::Use, "USE", 3, (9, 25), false),
        column(What::Held, "HELD", 4, (11, 11), false),
        column(What::Quota, "QUOTA", 5, (14, 25), false),
        column(What::Dropped, "DROPPED", 11, (7, 8), true),
        column(What::Total, "TOTAL", 12, (7, 8), true),
        column(What::Age, "AGE", 6, (6, 6), true),
        column(What::Minute, "LAST MINUTE", 10, (12, 60), false),
    ];
    if !quota {
        columns.retain(|column| column.what != What::Quota);
    }
    columns
}

/// The columns of the flows tab; `server` is the longest server on the screen, 0
/// where none is known.
pub fn flows(name: u16, rule: u16, server: u16) -> Vec<Column> {
    let name = name.max(15);
    let mut columns = vec![
        column(What::Client, "CLIENT", 0, (name.min(30), name), false),
        column(What::Local, "LOCAL", 5, (9, 25), false),
        column(
            What::Rule,
            "RULE",
            8,
            (rule.clamp(8, 10), rule.max(8)),
            false,
        ),
        column(
            What::Server,
            "SERVER",
            3,
            (server.clamp(8, 12), server.max(8)),
            false,
        ),
        column(What::Up, "UP", 1, (11, 11), true),
        column(What::Down, "DOWN", 2, (11, 11), true),
        column(What::Dropped, "DROPPED", 6, (8, 8), true),
        column(What::Total, "TOTAL", 10, (7, 8), true),
        column(What::Age, "AGE", 4, (6, 6), true),
        column(What::Idle, "IDLE", 7, (6, 6), true),
        column(What::Minute, "LAST MINUTE", 9, (12, 60), false),
    ];
    if server == 0 {
        columns.retain(|column| column.what != What::Server);
    }
    columns
}

/// The columns of the servers tab; `name` is the longest server with its backend,
/// `top` the longest top client on the screen.
pub fn servers(name: u16, top: u16) -> Vec<Column> {
    let (name, top) = (name.max(8), top.max(12));
    vec![
        column(What::Name, "SERVER", 0, (name.min(22), name), false),
        column(What::Connections, "CONN", 6, (4, 7), true),
        column(What::Up, "UP", 1, (11, 11), true),
        column(What::Down, "DOWN", 2, (11, 11), true),
        column(What::Load, "LOAD", 7, (9, 25), false),
        column(What::Imbalance, "IMBAL", 5, (5, 6), true),
        column(What::Top, "TOP CLIENT", 3, (top.min(18), top), false),
        column(What::Share, "SHARE", 4, (5, 5), true),
        column(What::Dropped, "DROPPED", 9, (7, 8), true),
        column(What::Total, "TOTAL", 10, (7, 8), true),
        column(What::Minute, "LAST MINUTE", 8, (12, 60), false),
    ]
}

/// Takes the columns that fit into `width`, the lowest rank first, and gives
/// what is left to those that can use it. One cell is between columns.
pub fn place(mut columns: Vec<Column>, width: u16) -> Vec<Placed> {
    let needed = |columns: &[Column]| {
        columns
            .iter()
            .map(|c| c.least + 1)
            .sum::<u16>()
            .saturating_sub(1)
    };
    while columns.len() > 1 && needed(&columns) > width {
        // A column of no use for want of one before it would be a surprise:
        // the worst rank goes, always.
        let Some(worst) = columns.iter().map(|c| c.rank).max() else {
            break;
        };
        columns.retain(|c| c.rank != worst);
    }
    let mut spare = width.saturating_sub(needed(&columns));
    let mut widths: Vec<u16> = columns.iter().map(|c| c.least).collect();
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|i| columns[*i].rank);
    for i in order {
        let more = spare.min(columns[i].most.saturating_sub(columns[i].least));
        widths[i] += more;
        spare -= more;
    }
    let mut x = 0;
    columns
        .into_iter()
        .zip(widths)
        .map(|(column, width)| {
            let placed = Placed { column, x, width };
            x += width + 1;
            placed
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(columns: Vec<Column>, width: u16) -> Vec<&'static str> {
        place(columns, width)
            .iter()
            .map(|p| p.column.title)
            .collect()
    }

    #[test]
    fn narrow_terminals_keep_what_matters() {
        assert_eq!(
            titles(clients(15, 8, false), 79),
            ["CLIENT", "UP", "DOWN", "LIMIT", "USE", "HELD", "AGE"]
        );
        assert_eq!(titles(clients(15, 8, true), 39), ["CLIENT", "UP", "DOWN"]);
        assert_eq!(
            titles(flows(21, 8, 0), 79),
            ["CLIENT", "LOCAL", "UP", "DOWN", "DROPPED", "AGE", "IDLE"]
        );
        assert_eq!(
            titles(flows(24, 8, 10), 79),
            ["CLIENT", "LOCAL", "SERVER", "UP", "DOWN", "AGE"]
        );
        assert_eq!(
            titles(servers(10, 13), 79),
            [
                "SERVER",
                "CONN",
                "UP",
                "DOWN",
                "LOAD",
                "IMBAL",
                "TOP CLIENT",
                "SHARE"
            ]
        );
        assert_eq!(
            titles(servers(20, 18), 79),
            ["SERVER", "UP", "DOWN", "IMBAL", "TOP CLIENT", "SHARE"]
        );
    }

    #[test]
    fn wide_terminals_show_all() {
        assert_eq!(
            titles(clients(39, 16, true), 219).len(),
            clients(0, 0, true).len()
        );
        assert_eq!(titles(flows(47, 16, 20), 199).len(), flows(0, 0, 1).len());
        assert_eq!(titles(servers(40, 40), 199).len(), servers(0, 0).len());
    }

    #[test]
    fn nothing_overlaps_or_leaves_the_table() {
        for width in 1..220 {
            for columns in [clients(39, 12, true), flows(47, 12, 30), servers(40, 18)] {
                let placed = place(columns, width);
                for pair in placed.windows(2) {
                    assert!(pair[0].x + pair[0].width < pair[1].x);
                }
                let last = placed.last().unwrap();
                assert!(placed.len() == 1 || last.x + last.width <= width, "{width}");
            }
        }
    }
}
