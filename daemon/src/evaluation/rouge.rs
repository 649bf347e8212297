//! ROUGE-L: how much of the order of the words two texts share.
//!
//! Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3, with beta = 1: the F-measure of the
//! longest common subsequence of words. Words are runs of ASCII letters and digits, in lower case, as in the model's
//! training report.

/// The score of `guess` against `answer`, 0 to 1; 0 where either has no words.
pub fn rouge_l(guess: &str, answer: &str) -> f64 {
    let (guess, answer) = (words(guess), words(answer));
    if guess.is_empty() || answer.is_empty() {
        return 0.0;
    }
    let common = longest_common_subsequence(&guess, &answer);
    2.0 * common as f64 / (guess.len() + answer.len()) as f64
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect()
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    // best[j]: the longest common to the words of `a` so far and the first j words of `b`.
    let mut best = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = best[j + 1];
            best[j + 1] = if word == other { diagonal + 1 } else { above.max(best[j]) };
            diagonal = above;
        }
    }
    best[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_example_scores_as_printed() {
        // Section 3.1 of the paper: reference "police killed the gunman".
        let reference = "police killed the gunman";
        assert_eq!(rouge_l("police kill the gunman", reference), 0.75);
        assert_eq!(rouge_l("the gunman kill police", reference), 0.5);
        assert_eq!(rouge_l("the gunman police killed", reference), 0.5);
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_nothing_scores_nothing() {
        assert_eq!(rouge_l("A fast, small tool!", "a fast small TOOL"), 1.0);
        assert_eq!(rouge_l("...", "a tool"), 0.0);
        assert_eq!(rouge_l("a tool", ""), 0.0);
    }
}
