//! Bytes into lines. Pure.

/// The longest line that is kept whole. The rest of a longer one is left out.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;

/// One stream's bytes, cut at the ends of its lines only.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    /// What is begun is full, and what comes is left out up to the line's end.
    cut: bool,
}

impl Lines {
    /// Takes bytes, and gives each line that ends in them: its bytes, and whether its
    /// end was left out.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (part, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            self.add(part);
            line(&self.begun, self.cut);
            self.begun.clear();
            self.cut = false;
        }
        self.add(bytes);
    }

    /// Gives what has no end, at the end of the stream.
    pub(super) fn finish(&mut self, line: impl FnOnce(&[u8], bool)) {
        if !self.begun.is_empty() {
            line(&self.begun, self.cut);
        }
        *self = Self::default();
    }

    fn add(&mut self, part: &[u8]) {
        let room = LINE_BYTES_MAX - self.begun.len().min(LINE_BYTES_MAX);
        let (kept, left_out) = part.split_at(part.len().min(room));
        self.begun.extend_from_slice(kept);
        self.cut |= !left_out.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for part in parts {
            lines.take(part, |line, cut| found.push((line.to_vec(), cut)));
        }
        lines.finish(|line, cut| found.push((line.to_vec(), cut)));
        found
    }

    #[test]
    fn lines_are_the_same_however_they_are_read() {
        let text = b"one\n\ntwo words\r\n\xff\nlast";
        let whole = all(&[text]);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[4], (b"last".to_vec(), false));
        for at in 0..=text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(all(&[one, two]), whole);
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(all(&single), whole);
    }

    #[test]
    fn a_long_line_is_cut_once_and_the_next_is_whole() {
        let mut text = vec![b'x'; 3 * LINE_BYTES_MAX];
        text.extend(b"\nnext\n");
        for size in [1000, LINE_BYTES_MAX, text.len()] {
            let parts: Vec<&[u8]> = text.chunks(size).collect();
            let found = all(&parts);
            assert_eq!(found.len(), 2, "{size}");
            assert_eq!((found[0].0.len(), found[0].1), (LINE_BYTES_MAX, true));
            assert_eq!(found[1], (b"next".to_vec(), false));
        }
    }

    #[test]
    fn a_line_of_the_greatest_length_is_whole() {
        let mut text = vec![b'x'; LINE_BYTES_MAX];
        text.push(b'\n');
        assert_eq!(all(&[&text]), [(vec![b'x'; LINE_BYTES_MAX], false)]);
    }
}
