// Package parchgrad reads what parchgradd publishes: saliency maps of the frames of live streams.
//
//	results, err := parchgrad.Subscribe(ctx, "tcp://127.0.0.1:5556")
//	for {
//		s, err := results.Next()
//		...
//	}
//
// The bytes are described in clients/WIRE.md.
package parchgrad

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	version   = 1
	maxStream = 128
	maxSide   = 1 << 16
)

// Label is a class and its probability. Name is empty if the daemon has no labels.
type Label struct {
	Class       int64
	Name        string
	Probability float64
}

// Explained is the class a map explains, and who chose it: top1, frame, stream or config.
type Explained struct {
	Class int64
	Name  string
	Why   string
}

// Saliency is one result. Everything it holds is its own.
type Saliency struct {
	Stream string
	Seq    uint64
	Boot   [16]byte
	TS     int64 // capture time, ns since the Unix epoch

	Top       []Label // best first
	Explained Explained
	Method    string

	Width, Height int
	Map           []float32 // row by row from the top
	DType         string    // as stored: u8 u16 f16 f32
	Transform     [6]float64
	Overlay       []byte // JPEG; nil if the daemon sends none

	Age    time.Duration // from capture to publishing
	Agrees *bool         // with the frame's decision; nil if it had none
	Meta   msgpack.RawMessage
	Trace  string
	// Header has every key of the header, encoded: params, quality, prune, timing, model, ...
	Header map[string]msgpack.RawMessage
	Parts  [][]byte // the message as it came
}

// FramePixel is where the map position (x, y) lies in the frame.
func (s *Saliency) FramePixel(x, y float64) (float64, float64) {
	t := &s.Transform
	return t[0]*x + t[1]*y + t[2], t[3]*x + t[4]*y + t[5]
}

// Digest is the SHA-256 of the message as it came, each part behind its length as a little-endian
// u32. Clients in other languages get the same: whether two saw the same bytes can be compared.
func (s *Saliency) Digest() string {
	sum := sha256.New()
	for _, part := range s.Parts {
		var size [4]byte
		binary.LittleEndian.PutUint32(size[:], uint32(len(part)))
		sum.Write(size[:])
		sum.Write(part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Decode reads the parts [stream] [header] [map] [overlay]? of a result. The error is a *WireError.
func Decode(parts [][]byte) (*Saliency, error) {
	if len(parts) != 3 && len(parts) != 4 {
		return nil, errorf("a result has three or four parts, not %d", len(parts))
	}
	if err := CheckStream(string(parts[0])); err != nil {
		return nil, err
	}
	header, err := splitHeader(parts[1])
	if err != nil {
		return nil, err
	}
	s := &Saliency{Stream: string(parts[0]), Header: header, Meta: header["meta"], Parts: parts}
	f := fields{raw: header}
	if v := f.integer("v"); f.err == nil && v != version {
		return nil, errorf("wire format version %d, this client reads %d", v, version)
	}
	s.Seq = f.unsigned("seq")
	copy(s.Boot[:], f.binary("boot", len(s.Boot)))
	s.TS = f.integer("ts")
	s.Method = f.text("method")
	s.Age = time.Duration(f.integer("age"))
	if _, given := header["trace"]; given {
		s.Trace = f.text("trace")
	}
	if _, given := header["agrees"]; given {
		agrees := f.boolean("agrees")
		s.Agrees = &agrees
	}
	s.decodeClasses(&f)
	if f.err != nil {
		return nil, f.err
	}
	if err := s.decodeMap(fields{where: "map: ", values: f.table("map")}, parts[2]); err != nil {
		return nil, err
	}
	if len(parts) == 4 {
		s.Overlay = parts[3]
	}
	return s, f.err
}

func (s *Saliency) decodeClasses(f *fields) {
	for _, row := range f.list("top") {
		cells, good := row.([]any)
		if !good || len(cells) != 3 {
			f.fail("top", row)
			return
		}
		r := fields{where: "top: ",
			values: map[string]any{"class": cells[0], "name": cells[1], "probability": cells[2]}}
		s.Top = append(s.Top, Label{r.integer("class"), r.name("name"), r.number("probability")})
		f.take(r.err)
	}
	if len(s.Top) == 0 {
		f.take(errorf("top is empty"))
	}
	e := fields{where: "explained: ", values: f.table("explained")}
	s.Explained = Explained{e.integer("class"), e.name("name"), e.text("why")}
	f.take(e.err)
}

var widths = map[string]int{"u8": 1, "u16": 2, "f16": 2, "f32": 4}

// decodeMap fills Map with (stored - zero) * scale.
func (s *Saliency) decodeMap(f fields, data []byte) error {
	w, h, dtype := f.integer("w"), f.integer("h"), f.text("dtype")
	scale, zero := f.number("scale"), f.number("zero")
	row := f.list("transform")
	if f.err != nil {
		return f.err
	}
	width, known := widths[dtype]
	switch {
	case w < 1 || h < 1 || w > maxSide || h > maxSide:
		return errorf("map: %d x %d pixels", w, h)
	case !known:
		return errorf("map: unknown dtype %.20q", dtype)
	case int64(len(data)) != w*h*int64(width):
		return errorf("map: %d bytes, %d x %d %s are %d", len(data), w, h, dtype, w*h*int64(width))
	case len(row) != 6:
		return errorf("map: transform has %d numbers, not 6", len(row))
	}
	for i, value := range row {
		cell := fields{where: "map: ", values: map[string]any{"transform": value}}
		s.Transform[i] = cell.number("transform")
		f.take(cell.err)
	}
	s.Width, s.Height, s.DType = int(w), int(h), dtype
	s.Map = make([]float32, w*h)
	for i := range s.Map {
		s.Map[i] = float32((stored(dtype, data[i*width:]) - zero) * scale)
	}
	return f.err
}

func stored(dtype string, b []byte) float64 {
	switch dtype {
	case "u8":
		return float64(b[0])
	case "u16":
		return float64(binary.LittleEndian.Uint16(b))
	case "f16":
		return half(binary.LittleEndian.Uint16(b))
	}
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
}

// half is the value of an IEEE binary16.
func half(bits uint16) float64 {
	sign, exponent, fraction := 1.0, int(bits>>10&31), float64(bits&1023)
	if bits>>15 != 0 {
		sign = -1
	}
	switch {
	case exponent == 31 && fraction != 0:
		return math.NaN()
	case exponent == 31:
		return math.Inf(int(sign))
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(fraction+1024, exponent-25)
}

// ErrorReply returns the reason and the sentence if the parts are an error reply of the rpc endpoint.
func ErrorReply(parts [][]byte) (reason, message string, is bool) {
	if len(parts) != 2 {
		return "", "", false
	}
	header, err := splitHeader(parts[1])
	if err != nil {
		return "", "", false
	}
	f := fields{raw: header}
	e := fields{values: f.table("error")}
	reason, message = e.text("reason"), e.text("message")
	return reason, message, f.err == nil && e.err == nil
}

// CheckStream says why the daemon would refuse a stream id, nil if it would not.
func CheckStream(name string) error {
	switch {
	case len(name) < 1 || len(name) > maxStream:
		return errorf("a stream id has 1 to %d bytes, not %d", maxStream, len(name))
	case !utf8.ValidString(name) || strings.IndexFunc(name, unicode.IsControl) >= 0:
		return errorf("stream id %q is not UTF-8 without control characters", name)
	case name[0] == '_' || strings.HasPrefix(name, "alert.") || name == "status":
		return errorf("stream id %q is reserved", name)
	}
	return nil
}

// fields reads typed values out of a map, decoded (values) or not yet (raw), and keeps the first
// error, so that a decoder reads like a list of keys.
type fields struct {
	where  string
	raw    map[string]msgpack.RawMessage
	values map[string]any
	err    error
}

func (f *fields) take(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) fail(key string, value any) {
	f.take(errorf("%s%s is missing or mistyped (%.40v)", f.where, key, value))
}

func (f *fields) get(key string) any {
	if f.raw == nil {
		return f.values[key]
	}
	raw, given := f.raw[key]
	if !given {
		return nil
	}
	decoder := msgpack.NewDecoder(bytes.NewReader(raw))
	decoder.UseLooseInterfaceDecoding(true)
	value, err := decoder.DecodeInterfaceLoose()
	if err != nil {
		f.take(errorf("%s%s: %v", f.where, key, err))
	}
	return value
}

func (f *fields) integer(key string) int64 {
	switch value := f.get(key).(type) {
	case int8: // msgpack's loose decoding leaves the one-byte integers as they are
		return int64(value)
	case int64:
		return value
	case uint64:
		if value <= math.MaxInt64 {
			return int64(value)
		}
		f.fail(key, value)
	default:
		f.fail(key, value)
	}
	return 0
}

func (f *fields) unsigned(key string) uint64 {
	if value, good := f.get(key).(uint64); good {
		return value
	}
	if n := f.integer(key); n >= 0 {
		return uint64(n)
	}
	f.fail(key, "negative")
	return 0
}

func (f *fields) number(key string) float64 {
	var number float64
	switch value := f.get(key).(type) {
	case float64:
		number = value
	case float32:
		number = float64(value)
	case int8:
		number = float64(value)
	case int64:
		number = float64(value)
	case uint64:
		number = float64(value)
	default:
		f.fail(key, value)
	}
	if math.IsNaN(number) || math.IsInf(number, 0) {
		f.fail(key, number)
	}
	return number
}

func (f *fields) text(key string) string {
	value := f.get(key)
	s, good := value.(string)
	if !good {
		f.fail(key, value)
	}
	return s
}

// name is a text or nil.
func (f *fields) name(key string) string {
	if f.get(key) == nil {
		return ""
	}
	return f.text(key)
}

// binary is a top-level value of the type bin 8, which the library's loose decoding makes a string.
func (f *fields) binary(key string, size int) []byte {
	raw := f.raw[key]
	if len(raw) != 2+size || raw[0] != 0xc4 {
		f.fail(key, []byte(raw))
		return nil
	}
	return raw[2:]
}

func (f *fields) boolean(key string) bool {
	value := f.get(key)
	b, good := value.(bool)
	if !good {
		f.fail(key, value)
	}
	return b
}

func (f *fields) list(key string) []any {
	value := f.get(key)
	l, good := value.([]any)
	if !good {
		f.fail(key, value)
	}
	return l
}

func (f *fields) table(key string) map[string]any {
	value := f.get(key)
	m, good := value.(map[string]any)
	if !good {
		f.fail(key, value)
	}
	return m
}
