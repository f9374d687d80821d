package faulty

import (
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
)

// Plan says what happens to a call. It is called for one call at a time.
type Plan func(Call) Fault

// Rule is one line of a script: the calls it is about, and their fault.
type Rule struct {
	Op    Op                    // "" means any
	Key   string                // keys that contain it; "" means any
	Match func(key string) bool // besides, if not nil
	Skip  int                   // leave so many matching calls alone first
	Times int                   // then hit so many; 0 means one, negative all that follow
	Fault Fault
}

// Script hits calls by rules; the first rule that has a fault for a call wins.
// Rules count their matches over all keys. Faults that make no sense for an
// Op (see Kinds) leave the call alone.
func Script(rules ...Rule) Plan {
	seen := make([]int, len(rules))
	return func(c Call) Fault {
		for i, r := range rules {
			if !r.about(c) {
				continue
			}
			n := seen[i] - r.Skip
			seen[i]++
			if n >= 0 && (r.Times < 0 || n < max(r.Times, 1)) {
				return r.Fault
			}
		}
		return Fault{}
	}
}

func (r Rule) about(c Call) bool {
	return (r.Op == "" || r.Op == c.Op) && strings.Contains(c.Key, r.Key) &&
		(r.Match == nil || r.Match(c.Key)) && slices.Contains(Kinds(c.Op), r.Fault.Kind)
}

// Seeded hits the given share of calls (0 to 1) with one of kinds that fits
// the call, all kinds but the stalling ones if none is given. What happens to
// a call depends on the seed, the Op, the key and how often they met before,
// not on scheduling; so a concurrent run can be repeated.
func Seeded(seed uint64, share float64, kinds ...Kind) Plan {
	if len(kinds) == 0 {
		kinds = []Kind{Before, Lost, Full, Cut, Short, Flip}
	}
	return func(c Call) Fault {
		rng := rand.New(rand.NewPCG(seed, callHash(c)))
		fit := slices.DeleteFunc(slices.Clone(kinds), func(k Kind) bool {
			return !slices.Contains(Kinds(c.Op), k)
		})
		if len(fit) == 0 || rng.Float64() >= share {
			return Fault{}
		}
		return Fault{Kind: fit[rng.IntN(len(fit))], At: rng.Int64N(64 << 20)}
	}
}

// Kinds returns the faults that make sense for an Op.
func Kinds(op Op) []Kind {
	switch op {
	case Create:
		return []Kind{Before, Lost, Stall, Full}
	case Delete, Retain, Swap:
		return []Kind{Before, Lost, Stall, Full}
	case Read:
		return []Kind{Before, Stall, Cut, Short, Flip, StallBody}
	case List:
		return []Kind{Before, Stall, Cut, Short}
	}
	return []Kind{Before, Stall}
}

func callHash(c Call) uint64 {
	h := fnv.New64a()
	h.Write([]byte(c.Op))
	h.Write([]byte{0})
	h.Write([]byte(c.Key))
	h.Write([]byte{0})
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(c.N)))
	return h.Sum64()
}
