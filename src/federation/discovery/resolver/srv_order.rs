//! The order in which the hosts of a service are tried.
//!
//! Source: [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782), "The format of the SRV RR".

use crate::store::records::Endpoint;

/// The endpoints by priority, the lowest first, and in a random order by weight among equals. `random`
/// returns a number up to and including its argument.
pub fn in_order(endpoints: &[Endpoint], mut random: impl FnMut(u32) -> u32) -> Vec<&Endpoint> {
    let mut left: Vec<&Endpoint> = endpoints.iter().collect();
    // Endpoints without a weight come first, where a sum of 0 finds them.
    left.sort_by_key(|endpoint| (endpoint.priority, endpoint.weight != 0));
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(first) = left.first() {
        let equals = left
            .iter()
            .take_while(|other| other.priority == first.priority);
        let mut sums = Vec::new();
        let mut sum = 0;
        for endpoint in equals {
            sum += u32::from(endpoint.weight);
            sums.push(sum);
        }
        let drawn = random(sum);
        let next = sums.iter().position(|sum| *sum >= drawn).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, in_order};

    fn endpoint(priority: u16, weight: u16, port: u16) -> Endpoint {
        Endpoint {
            priority,
            weight,
            port,
            addresses: Vec::new(),
        }
    }

    fn ports(endpoints: &[Endpoint], mut draws: impl FnMut(u32) -> u32) -> Vec<u16> {
        let ordered = in_order(endpoints, &mut draws);
        ordered.iter().map(|endpoint| endpoint.port).collect()
    }

    #[test]
    fn the_lowest_priority_is_first() {
        let endpoints = [endpoint(20, 0, 1), endpoint(10, 0, 2), endpoint(30, 9, 3)];
        assert_eq!(ports(&endpoints, |sum| sum), [2, 1, 3]);
    }

    #[test]
    fn among_equals_each_is_first_in_proportion_to_its_weight() {
        let endpoints = [endpoint(1, 3, 1), endpoint(1, 1, 2), endpoint(1, 0, 3)];
        let mut first = [0; 4];
        for drawn in 0..=4 {
            let mut draws = [drawn, 0, 0].into_iter();
            let ports = ports(&endpoints, |_| draws.next().unwrap_or(0));
            assert_eq!(ports.len(), 3);
            first[usize::from(ports[0])] += 1;
        }
        assert_eq!(first, [0, 3, 1, 1]);
    }

    #[test]
    fn every_endpoint_occurs_once() {
        let endpoints: Vec<_> = (0..20).map(|n| endpoint(n % 3, n % 5, n)).collect();
        for _ in 0..100 {
            let mut ports = ports(&endpoints, |sum| rand::random_range(0..=sum));
            assert!(ports.is_sorted_by_key(|port| port % 3), "{ports:?}");
            ports.sort_unstable();
            assert_eq!(ports, (0..20).collect::<Vec<_>>());
        }
    }
}
