//! What a source file mentions, without comments, literals and code for tests.

/// A word, or a character that is not part of one; `::` is one token.
pub type Token = String;

/// What a file mentions of other modules.
#[derive(Debug, Default)]
pub struct Mentions {
    /// `use` declarations, one for each name.
    pub uses: Vec<Use>,
    /// Every path of two or more segments outside of `use` declarations.
    pub paths: Vec<Vec<String>>,
    /// Every word outside of `use` declarations.
    pub words: std::collections::BTreeSet<String>,
    /// Names of `mod name;` that are compiled for tests only.
    pub test_modules: Vec<String>,
}

#[derive(Debug)]
pub struct Use {
    pub path: Vec<String>,
    /// The name in this file; `*` for everything.
    pub name: String,
    /// Whether others can take the name from here.
    pub is_public: bool,
}

impl Mentions {
    pub fn of(source: &str) -> Self {
        let tokens = without_tests(tokens(source));
        let mut mentions = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "mod" && tokens.get(at + 2).is_some_and(|token| token == "#test") {
                mentions.test_modules.push(tokens[at + 1].clone());
                at += 3;
            } else if tokens[at] == "mod" && tokens.get(at + 2).is_some_and(|token| token == ";") {
                at += 3;
            } else if tokens[at] == "use" {
                let end = at + tokens[at..].iter().position(|t| t == ";").expect("a `;`");
                let is_public = at > 0 && matches!(tokens[at - 1].as_str(), "pub" | ")");
                let mut tree = tokens[at + 1..end].iter().map(String::as_str);
                use_tree(&mut tree, &[], is_public, &mut mentions.uses);
                at = end + 1;
            } else if is_word(&tokens[at]) && !(at > 0 && tokens[at - 1] == ".") {
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|token| token == "::")
                    && tokens.get(at + 2).is_some_and(|token| is_word(token))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                mentions.words.extend(path.iter().cloned());
                if path.len() > 1 {
                    mentions.paths.push(path);
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        mentions
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Reads one branch of a `use` tree, up to the `,` or `}` behind it.
fn use_tree<'a>(
    tree: &mut (impl Iterator<Item = &'a str> + Clone),
    prefix: &[String],
    is_public: bool,
    uses: &mut Vec<Use>,
) {
    let mut path = prefix.to_vec();
    let mut name = None;
    loop {
        let mut ahead = tree.clone();
        match ahead.next() {
            Some("{") => {
                *tree = ahead;
                loop {
                    use_tree(tree, &path, is_public, uses);
                    if tree.next() != Some(",") {
                        break;
                    }
                }
                return;
            }
            None | Some("," | "}") => break,
            Some("::") => *tree = ahead,
            Some("as") => {
                name = ahead.next().map(str::to_owned);
                *tree = ahead;
            }
            Some(segment) => {
                path.push(segment.to_owned());
                *tree = ahead;
            }
        }
    }
    if path.len() == prefix.len() {
        return; // The end of a list with a comma behind its last entry.
    }
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let last = path.last().cloned();
    if let Some(name) = name.or(last).filter(|name| name != "_") {
        uses.push(Use {
            path,
            name,
            is_public,
        });
    }
}

/// `tokens` without the items under `#[cfg(test)]`. What is left of `mod name;` is `mod name #test`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept: Vec<Token> = Vec::new();
    let mut rest = &tokens[..];
    while let Some(first) = rest.first() {
        if !rest.iter().take(7).eq(CFG_TEST.iter()) {
            kept.push(first.clone());
            rest = &rest[1..];
            continue;
        }
        let (mut depth, mut end, mut body) = (0_usize, 7, false);
        for token in &rest[7..] {
            end += 1;
            match token.as_str() {
                "{" | "(" | "[" => {
                    body |= depth == 0 && token == "{";
                    depth += 1;
                }
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            let is_end = match token.as_str() {
                ";" => depth == 0,
                "}" => depth == 0 && body && rest.get(end).is_none_or(|next| next != ";"),
                _ => false,
            };
            if is_end {
                break;
            }
        }
        let item = &rest[7..end];
        if let Some(at) = item.iter().position(|token| token == "mod")
            && item.get(at + 2).is_some_and(|token| token == ";")
        {
            kept.extend(["mod", &*item[at + 1], "#test"].map(str::to_owned));
        }
        rest = &rest[end..];
    }
    kept
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(chars[i] == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if let Some(end) = raw_string(&chars, i) {
            i = end;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += 1 + usize::from(chars[i] == '\\');
            }
            i += 1;
        } else if c == '\'' {
            // A character, or a lifetime, which has no second quote.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else {
                i += if at(i + 2) == '\'' { 3 } else { 1 };
            }
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(chars[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// The end of the raw string that starts at `start`, if one does.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let is_start = start == 0 || !(chars[start - 1].is_alphanumeric() || chars[start - 1] == '_');
    let after = match chars[start..] {
        ['b', 'r', '"' | '#', ..] if is_start => start + 2,
        ['r', '"' | '#', ..] if is_start => start + 1,
        _ => return None,
    };
    let hashes = chars[after..].iter().take_while(|c| **c == '#').count();
    if chars.get(after + hashes) != Some(&'"') {
        return None; // A raw identifier.
    }
    let mut i = after + hashes + 1;
    while i < chars.len() {
        let closing = chars[i + 1..].iter().take(hashes).filter(|c| **c == '#');
        if chars[i] == '"' && closing.count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(i)
}
