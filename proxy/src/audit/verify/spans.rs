//! Which records a seal vouches for. A process signs what it wrote, behind a history that it found: what lay in a file while
//! nobody wrote it is vouched for by the seals that were in it then, and by no later one. Pure.

use super::seals::Vouched;

/// Above this, the log was begun so often that the first ones tell enough.
const SPANS_MAX: usize = 1000;

/// Records one behind the other for which the same can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
    /// Who vouches for them. `None`: no seal of the process that wrote them covers them.
    pub by: Option<Vouched>,
}

/// Gathers the spans of a log.
#[derive(Debug, Default)]
pub struct Spans {
    done: Vec<Span>,
    /// Of the process that is writing: its first record, and its last seals.
    first: Option<u64>,
    seals: [Option<u64>; 3],
}

/// Who tells more comes first.
const BY: [Vouched; 3] = [Vouched::ByTrusted, Vouched::ByArchive, Vouched::ByNobody];

impl Spans {
    /// `number` is the first record of a process.
    pub fn process(&mut self, number: u64) {
        self.end(number.saturating_sub(1));
        self.first = Some(number);
    }

    pub fn seal(&mut self, number: u64, by: Vouched) {
        for (kind, last) in BY.iter().zip(&mut self.seals) {
            if *kind == by {
                *last = Some(number);
            }
        }
    }

    /// `last`: the last record of the process.
    fn end(&mut self, last: u64) {
        let Some(mut first) = self.first.take() else { return };
        let ends = BY.map(Some).into_iter().zip(std::mem::take(&mut self.seals)).chain([(None, Some(last))]);
        for (by, end) in ends {
            let Some(end) = end.filter(|end| *end >= first) else { continue };
            self.add(Span { first, last: end, by });
            first = end + 1;
        }
    }

    fn add(&mut self, span: Span) {
        let has_room = self.done.len() < SPANS_MAX;
        match self.done.last_mut() {
            Some(before) if before.by == span.by && before.last + 1 == span.first => before.last = span.last,
            _ if has_room => self.done.push(span),
            _ => {}
        }
    }

    /// In order. Of the records behind the last seal there is one, too.
    pub fn finish(mut self, last: u64) -> Vec<Span> {
        self.end(last);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Spans};
    use crate::audit::verify::seals::Vouched::{self, ByArchive, ByNobody, ByTrusted};

    #[test]
    fn a_seal_vouches_for_what_its_process_wrote() {
        type Case<'a> = (&'a [u64], &'a [(u64, Vouched)], &'a [(u64, u64, Option<Vouched>)]);
        let cases: [Case<'_>; 6] = [
            (&[1], &[], &[(1, 9, None)]),
            (&[1], &[(9, ByTrusted)], &[(1, 9, Some(ByTrusted))]),
            (&[1], &[(3, ByArchive), (7, ByTrusted)], &[(1, 7, Some(ByTrusted)), (8, 9, None)]),
            (
                &[1],
                &[(3, ByTrusted), (7, ByArchive)],
                &[(1, 3, Some(ByTrusted)), (4, 7, Some(ByArchive)), (8, 9, None)],
            ),
            (
                &[1, 5],
                &[(3, ByTrusted), (9, ByTrusted)],
                &[(1, 3, Some(ByTrusted)), (4, 4, None), (5, 9, Some(ByTrusted))],
            ),
            (&[1, 5], &[(4, ByNobody), (9, ByTrusted)], &[(1, 4, Some(ByNobody)), (5, 9, Some(ByTrusted))]),
        ];
        for (processes, seals, expected) in cases {
            let mut spans = Spans::default();
            for number in 1..=9 {
                if processes.contains(&number) {
                    spans.process(number);
                }
                seals.iter().filter(|(at, _)| *at == number).for_each(|(_, by)| spans.seal(number, *by));
            }
            let expected: Vec<_> = expected.iter().map(|&(first, last, by)| Span { first, last, by }).collect();
            assert_eq!(spans.finish(9), expected, "{processes:?} {seals:?}");
        }
    }
}
