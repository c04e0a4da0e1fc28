//! Medians, and a table to print them in.

use std::fmt::Write as _;

/// The middle value; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(sorted[middle - 1], *value),
        (None, _) => 0.0,
    }
}

/// The median of what `of` makes of the values of the same round: noise that hit
/// both cancels out.
#[must_use]
pub fn paired(left: &[f64], right: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
    let pairs: Vec<f64> = left.iter().zip(right).map(|(l, r)| of(*l, *r)).collect();
    median(&pairs)
}

/// Rows of text, the first one being the head, as a Markdown table.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if at == 0 {
            for width in &widths {
                let _ = write!(text, "|{:-<1$}", "", width + 2);
            }
            text.push_str("|\n");
        }
    }
    text
}

/// The load averages of this machine, which tell how far to trust a number.
#[must_use]
pub fn load() -> String {
    let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let three: Vec<&str> = loads.split(' ').take(3).collect();
    format!("load averages {}", three.join(" "))
}

/// How much memory this process has in use, as the kernel counts it, in bytes.
#[must_use]
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}

/// How many descriptors this process has open.
#[must_use]
pub fn descriptors() -> usize {
    // One of them is the one that looks.
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(paired(&[4.0, 9.0], &[2.0, 3.0], |l, r| l / r), 2.5);
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into()]];
        assert_eq!(table(&rows), "| a   | bb |\n|-----|----|\n| ccc |    |\n");
    }
}
