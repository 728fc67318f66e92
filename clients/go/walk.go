package parchgrad

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

// A header comes from the network. Before a msgpack library sees it, this walk checks that every
// length fits into the bytes that are there and that nothing is nested so deep that a recursive
// decoder would use up its stack. It allocates nothing but the table of the top-level keys.

const (
	maxHeader = 1 << 20
	maxDepth  = 32
)

// kind of a msgpack value, as far as the walk needs it.
type kind int

const (
	scalar kind = iota
	text
	array
	table
)

// head reads a value's first bytes: its kind, how many bytes the head takes, how many bytes of
// body follow (scalars and strings), how many values (arrays; pairs count twice).
func head(b []byte) (k kind, size int, body, values uint64, err error) {
	if len(b) == 0 {
		return 0, 0, 0, 0, errorf("the header ends early")
	}
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0:
		return scalar, 1, 0, 0, nil
	case c <= 0x8f:
		return table, 1, 0, 2 * uint64(c&15), nil
	case c <= 0x9f:
		return array, 1, 0, uint64(c & 15), nil
	case c <= 0xbf:
		return text, 1, uint64(c & 31), 0, nil
	case c == 0xc1:
		return 0, 0, 0, 0, errorf("the header has the reserved byte 0xc1")
	case c <= 0xc3:
		return scalar, 1, 0, 0, nil
	case c >= 0xca && c <= 0xd3: // floats and integers
		return scalar, 1, [...]uint64{4, 8, 1, 2, 4, 8, 1, 2, 4, 8}[c-0xca], 0, nil
	case c >= 0xd4 && c <= 0xd8: // fixext: a type byte and 1, 2, 4, 8, 16 bytes
		return scalar, 1, 1 + 1<<(c-0xd4), 0, nil
	}
	width := map[byte]int{0xc4: 1, 0xc5: 2, 0xc6: 4, 0xc7: 1, 0xc8: 2, 0xc9: 4, 0xd9: 1, 0xda: 2,
		0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4}[c]
	if len(b) < 1+width {
		return 0, 0, 0, 0, errorf("the header ends early")
	}
	var wide [8]byte
	copy(wide[8-width:], b[1:1+width])
	n := binary.BigEndian.Uint64(wide[:])
	switch {
	case c <= 0xc6:
		return scalar, 1 + width, n, 0, nil
	case c <= 0xc9: // ext: a type byte beside the length
		return scalar, 1 + width, n + 1, 0, nil
	case c <= 0xdb:
		return text, 1 + width, n, 0, nil
	case c <= 0xdd:
		return array, 1 + width, 0, n, nil
	}
	return table, 1 + width, 0, 2 * n, nil
}

// skip returns the length of the first value in b.
func skip(b []byte, depth int) (int, error) {
	if depth > maxDepth {
		return 0, errorf("the header is nested more than %d deep", maxDepth)
	}
	_, at, body, values, err := head(b)
	if err != nil {
		return 0, err
	}
	if body > uint64(len(b)-at) || values > uint64(len(b)-at) {
		return 0, errorf("a length in the header exceeds its bytes")
	}
	at += int(body)
	for ; values > 0; values-- {
		n, err := skip(b[at:], depth+1)
		if err != nil {
			return 0, err
		}
		at += n
	}
	return at, nil
}

// splitHeader returns the encoded values of a header's top-level keys.
func splitHeader(b []byte) (map[string]msgpack.RawMessage, error) {
	if len(b) > maxHeader {
		return nil, errorf("the header has %d bytes, more than %d", len(b), maxHeader)
	}
	k, at, _, values, err := head(b)
	if err != nil {
		return nil, err
	}
	if k != table {
		return nil, errorf("the header is no map")
	}
	keys := make(map[string]msgpack.RawMessage)
	for ; values > 0; values -= 2 {
		k, size, body, _, err := head(b[at:])
		if err != nil {
			return nil, err
		}
		n, err := skip(b[at:], 1)
		if err != nil {
			return nil, err
		}
		key := b[at+size : at+size+int(body)]
		if k != text || !utf8.Valid(key) {
			return nil, errorf("a key of the header is no string")
		}
		at += n
		if n, err = skip(b[at:], 1); err != nil {
			return nil, err
		}
		if _, twice := keys[string(key)]; twice {
			return nil, errorf("the header has %q twice", key)
		}
		keys[string(key)] = msgpack.RawMessage(b[at : at+n : at+n])
		at += n
	}
	if at != len(b) {
		return nil, errorf("%d bytes follow the header", len(b)-at)
	}
	return keys, nil
}

// WireError says why a message is not one of wire format 1.
type WireError struct{ text string }

func (e *WireError) Error() string { return "parchgrad: " + e.text }

func errorf(format string, arguments ...any) error {
	return &WireError{fmt.Sprintf(format, arguments...)}
}
