//! Command lines as one line of text that a shell would understand.

/// Joins words by spaces, and quotes those that need it.
pub(crate) fn join(words: &[impl AsRef<str>]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        push(&mut line, word.as_ref());
    }
    line
}

fn push(line: &mut String, word: &str) {
    let plain = |c: char| c.is_alphanumeric() || "_-+=./:,@%^~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        line.push_str(word);
    } else if word.chars().any(char::is_control) {
        // As bash's $'…', which keeps line ends and escape sequences visible.
        line.push_str("$'");
        for character in word.chars() {
            match character {
                '\'' | '\\' => line.extend(['\\', character]),
                control if control.is_control() => line.extend(control.escape_default()),
                other => line.push(other),
            }
        }
        line.push('\'');
    } else {
        line.push('\'');
        line.push_str(&word.replace('\'', r"'\''"));
        line.push('\'');
    }
}

/// At most so many characters, with a mark where something was cut off.
pub(crate) fn cut(text: &mut String, columns: usize) {
    let Some((end, _)) = text.char_indices().nth(columns) else {
        return;
    };
    // The last one makes room for the mark.
    let keep = text[..end]
        .char_indices()
        .next_back()
        .map_or(0, |(at, _)| at);
    text.truncate(keep);
    text.push('…');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_apart_and_on_one_line() {
        assert_eq!(join(&["gcc", "-O2", "-DX=1"]), "gcc -O2 -DX=1");
        assert_eq!(join(&["sh", "-c", "exit 3"]), "sh -c 'exit 3'");
        assert_eq!(join(&["", "a'b"]), r"'' 'a'\''b'");
        assert_eq!(join(&["a\nb\u{1b}[2J"]), "$'a\\nb\\u{1b}[2J'");
        assert_eq!(join(&[""; 0]), "");
    }

    #[test]
    fn a_cut_is_marked_and_never_within_a_character() {
        let shortened = |text: &str, columns| {
            let mut text = text.to_owned();
            cut(&mut text, columns);
            text
        };
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
        assert_eq!(shortened("äöüß", 2), "ä…");
        assert_eq!(shortened("ab", 1), "…");
        assert_eq!(shortened("ab", 0), "…");
    }
}
