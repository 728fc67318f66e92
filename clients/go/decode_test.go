package parchgrad

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

const vectorDir = "../vectors"

type vector struct {
	File   string
	Drop   string
	Stream string
	Expect struct {
		Stream, Boot, Why, Method, DType, Error, Trace string
		Seq                                            uint64
		TS, Age, Explained                             int64
		TopClass                                       int64   `json:"top_class"`
		TopName                                        *string `json:"top_name"`
		Probability                                    float64
		W, H                                           int
		Values                                         []float32
		Transform                                      [6]float64
		OverlayBytes                                   int `json:"overlay_bytes"`
		Meta                                           json.RawMessage
		Agrees                                         *bool
	}
}

func vectors(t *testing.T) (frames, saliency []vector) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorDir, "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct{ Frames, Saliency []vector }
	if err := json.Unmarshal(text, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Frames) == 0 || len(index.Saliency) == 0 {
		t.Fatal("vectors.json is empty")
	}
	return index.Frames, index.Saliency
}

func parts(t *testing.T, file string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectorDir, file))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for len(data) > 0 {
		size := int(binary.LittleEndian.Uint32(data))
		out = append(out, data[4:4+size])
		data = data[4+size:]
	}
	return out
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestResults(t *testing.T) {
	_, all := vectors(t)
	for _, v := range all {
		t.Run(v.File, func(t *testing.T) {
			message, want := parts(t, v.File), v.Expect
			if want.Error != "" {
				reason, text, is := ErrorReply(message)
				equal(t, "reason", reason, want.Error)
				equal(t, "error reply", is && text != "", true)
				return
			}
			s, err := Decode(message)
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, &v)
		})
	}
}

func check(t *testing.T, s *Saliency, v *vector) {
	want := v.Expect
	equal(t, "stream", s.Stream, want.Stream)
	equal(t, "seq", s.Seq, want.Seq)
	equal(t, "boot", hex.EncodeToString(s.Boot[:]), want.Boot)
	equal(t, "ts", s.TS, want.TS)
	name := ""
	if want.TopName != nil {
		name = *want.TopName
	}
	equal(t, "top", s.Top[0], Label{want.TopClass, name, want.Probability})
	equal(t, "explained", s.Explained, Explained{want.Explained, name, want.Why})
	equal(t, "method", s.Method, want.Method)
	equal(t, "size", [2]int{s.Width, s.Height}, [2]int{want.W, want.H})
	equal(t, "dtype", s.DType, want.DType)
	equal(t, "map", s.Map, want.Values)
	equal(t, "transform", s.Transform, want.Transform)
	equal(t, "overlay", len(s.Overlay), want.OverlayBytes)
	equal(t, "age", s.Age, time.Duration(want.Age))
	equal(t, "trace", s.Trace, want.Trace)
	equal(t, "agrees", s.Agrees, want.Agrees)
	equal(t, "meta given", s.Meta != nil, want.Meta != nil)
	if s.Meta != nil {
		var meta any
		if err := msgpack.Unmarshal(s.Meta, &meta); err != nil {
			t.Error(err)
		}
		text, _ := json.Marshal(meta)
		var compact bytes.Buffer
		json.Compact(&compact, want.Meta)
		equal(t, "meta", string(text), compact.String())
	}
	file, _ := os.ReadFile(filepath.Join(vectorDir, v.File))
	sum := sha256.Sum256(file)
	equal(t, "digest", s.Digest(), hex.EncodeToString(sum[:]))
}

// No frame, good or bad, is a result, and each refusal is a *WireError.
func TestFramesAreNoResults(t *testing.T) {
	frames, _ := vectors(t)
	for _, v := range frames {
		_, err := Decode(parts(t, v.File))
		var wire *WireError
		if !errors.As(err, &wire) {
			t.Errorf("%s: %v", v.File, err)
		}
	}
}

// The keys of every good frame survive the walk byte for byte; headers that are no msgpack map do not.
func TestSplitHeader(t *testing.T) {
	frames, _ := vectors(t)
	good := 0
	for _, v := range frames {
		if v.Drop != "none" {
			continue
		}
		message := parts(t, v.File)
		keys, err := splitHeader(message[1])
		if err != nil {
			t.Fatalf("%s: %v", v.File, err)
		}
		equal(t, v.File+" stream", string(message[0]), v.Stream)
		equal(t, v.File+" v", []byte(keys["v"]), []byte{1})
		at := 0
		for key, value := range keys {
			at += len(value) + 1 + len(key)
		}
		if head := len(message[1]) - at; head != 1 && head != 3 {
			t.Errorf("%s: %d bytes of %d accounted for", v.File, at, len(message[1]))
		}
		good++
	}
	equal(t, "good frames seen", good > 5, true)
	for _, file := range []string{"bad_header_bomb.bin", "bad_header_map_bomb.bin", "bad_header_deep.bin",
		"bad_header_str_bomb.bin", "bad_header_trailing.bin", "bad_header_truncated.bin",
		"bad_key_twice.bin", "bad_key_not_string.bin", "bad_header_reserved_byte.bin"} {
		if _, err := splitHeader(parts(t, file)[1]); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}

// Cut and flipped headers are results or errors, never a panic.
func TestDamage(t *testing.T) {
	message := parts(t, "saliency_u8_signed_overlay.bin")
	header, refused := message[1], 0
	try := func(broken []byte) {
		if _, err := Decode([][]byte{message[0], broken, message[2], message[3]}); err != nil {
			refused++
		}
	}
	for n := range header {
		try(header[:n])
		for _, flip := range []byte{1, 0x80, 0xff} {
			broken := append([]byte(nil), header...)
			broken[n] ^= flip
			try(broken)
		}
	}
	equal(t, "at least every cut refused", refused > len(header), true)
}

func TestBadMaps(t *testing.T) {
	message := parts(t, "saliency_u8.bin")
	for name, change := range map[string]map[string]any{
		"w 0": {"w": 0}, "w 3": {"w": 3}, "huge": {"w": 1 << 40, "h": 1 << 40}, "dtype": {"dtype": "f64"},
		"scale": {"scale": math.NaN()}, "zero": {"zero": nil}, "transform": {"transform": []int{1}},
		"text": {"transform": []any{1, 0, 0, 0, 1, "x"}},
	} {
		var header map[string]any
		if err := msgpack.Unmarshal(message[1], &header); err != nil {
			t.Fatal(err)
		}
		for key, value := range change {
			header["map"].(map[string]any)[key] = value
		}
		encoded, _ := msgpack.Marshal(header)
		if _, err := Decode([][]byte{message[0], encoded, message[2]}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestHalf(t *testing.T) {
	for bits, want := range map[uint16]float64{0: 0, 0x3c00: 1, 0xc000: -2, 0x0001: math.Ldexp(1, -24),
		0x7bff: 65504, 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1), 0x03ff: math.Ldexp(1023, -24)} {
		equal(t, "half", half(bits), want)
	}
	equal(t, "nan", math.IsNaN(half(0x7e00)), true)
}

func TestStreamNames(t *testing.T) {
	for _, name := range []string{"", "_x", "alert.x", "status", "a\x00", "a\x7f", "\xff", string(make([]byte, 129))} {
		if CheckStream(name) == nil {
			t.Errorf("%q was taken", name)
		}
	}
	equal(t, "good name", CheckStream("türe 1/links"), nil)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x81, 0xa1, 'v', 1}, []byte{1})
	if data, err := os.ReadFile(filepath.Join(vectorDir, "saliency_u8.bin")); err == nil {
		size := binary.LittleEndian.Uint32(data[8:])
		f.Add(data[12:12+size], data[16+size:])
	}
	f.Fuzz(func(t *testing.T, header, values []byte) {
		Decode([][]byte{[]byte("cam0"), header, values})
	})
}
