package postgres

import (
	"reflect"
	"strings"
	"testing"
)

func TestStandbyNames(t *testing.T) {
	for in, want := range map[string]standbyNames{
		"":                                 {},
		"a":                                {Num: 1, Members: []string{"a"}},
		"a, b":                             {Num: 1, Members: []string{"a", "b"}},
		"*":                                {Num: 1, Members: []string{"*"}},
		"2 (a, b,c)":                       {Num: 2, Members: []string{"a", "b", "c"}},
		"FIRST 2 (a, b)":                   {Num: 2, Members: []string{"a", "b"}},
		"first 1(a)":                       {Num: 1, Members: []string{"a"}},
		"aNy 1 (a, *)":                     {Any: true, Num: 1, Members: []string{"a", "*"}},
		`ANY 2 ("a ""b""", "any", "(")`:    {Any: true, Num: 2, Members: []string{`a "b"`, "any", "("}},
		"1, 2":                             {Num: 1, Members: []string{"1", "2"}},
		"1 (2)":                            {Num: 1, Members: []string{"2"}},
		" \t\n\v holdfast_orders ":         {Num: 1, Members: []string{"holdfast_orders"}},
		"ANY 1 (ünit$1, firsts, anything)": {Any: true, Num: 1, Members: []string{"ünit$1", "firsts", "anything"}},
	} {
		got, err := parseStandbyNames(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v %v", in, got, err)
		}
		again, err := parseStandbyNames(got.String())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q is written as %q: %+v %v", in, got, again, err)
		}
	}
	for _, bad := range []string{"a,", ",a", "a b", "first", "any 1", "ANY (a)", "first a", "any, b", "0 (a)", "2 (a", "2 (a) b", "2 ()", `"a`, "a-b", "-1 (a)", "99999999999999999999 (a)", "a (b)", "((a))", ")", "1 (a))"} {
		if got, err := parseStandbyNames(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestWhoIsNamed(t *testing.T) {
	for in, want := range map[string]struct {
		index  int
		exact  bool
		others string
	}{
		"a, b":                   {-1, false, "a b"},
		"a, HOLDFAST_Orders, a":  {1, true, "a"},
		"*, holdfast_orders":     {0, true, "*"},
		"ANY 1 (a, *)":           {1, false, "a *"},
		`ANY 1 ("HOLDFAST_X",b)`: {-1, false, "HOLDFAST_X b"},
		"":                       {-1, false, ""},
	} {
		n, err := parseStandbyNames(in)
		if err != nil {
			t.Fatal(err)
		}
		index, exact := n.find("holdfast_orders")
		if others := strings.Join(n.others("holdfast_orders"), " "); index != want.index || exact != want.exact || others != want.others {
			t.Errorf("%q: %d %v, others %q", in, index, exact, others)
		}
	}
	if name := receiverName("Orders-1 ö"); quoteStandby(name) != name {
		t.Errorf("%s needs quotes", name)
	}
	if got := (standbyNames{Num: 1, Members: []string{"it's"}}).setSQL(); got != `ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ("it''s")'; SELECT pg_reload_conf();` {
		t.Error(got)
	}
}

func FuzzStandbyNames(f *testing.F) {
	f.Add(`ANY 2 (a, "b ""c""", *)`)
	f.Add("FIRST 1 (first_, 7)")
	f.Add("a, b")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseStandbyNames(s)
		if err != nil {
			return
		}
		again, err := parseStandbyNames(n.String())
		if err != nil || !reflect.DeepEqual(again, n) {
			t.Fatalf("%q is written as %q: %+v %v", s, n, again, err)
		}
		if i, _ := n.find("holdfast_x"); i >= len(n.Members) || len(n.Members) > 0 && n.Num < 1 {
			t.Fatalf("%+v", n)
		}
	})
}
