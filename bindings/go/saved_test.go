package litemamba_test

import (
	"bytes"
	"encoding"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"litemamba"
)

var (
	_ encoding.BinaryAppender = (*litemamba.Cache)(nil)
	_ io.WriterTo             = (*litemamba.Cache)(nil)
)

// busyCache is a cache of two sequences, of which the second has seen more.
func busyCache(layer *litemamba.Layer, dtype litemamba.DType) *litemamba.Cache {
	cache := must(layer.NewCacheTyped(2, dtype))
	x := ramp(7 * layer.DModel())
	if err := layer.ForwardVarlen(x, x, []int{0, 2, 7}, cache); err != nil {
		panic(err)
	}
	return cache
}

func TestSavedCachesGoOn(t *testing.T) {
	eachType(t, func(t *testing.T, layer *litemamba.Layer) {
		for _, held := range dtypes {
			cache := busyCache(layer, held)
			defer cache.Close()
			saved := must(cache.Save())
			loaded := must(layer.LoadCache(saved))
			defer loaded.Close()
			if loaded.Batch() != 2 || loaded.SeqlenOffset() != 5 || loaded.DType() != held {
				t.Errorf("%v: batch %d, offset %d, held in %v", held, loaded.Batch(), loaded.SeqlenOffset(), loaded.DType())
			}
			if !bytes.Equal(must(loaded.Save()), saved) {
				t.Errorf("%v: the same state gives other bytes", held)
			}
			y, expected := make([]float32, 2*8), make([]float32, 2*8)
			for range 3 {
				x := ramp(2 * 8)
				if err := errors.Join(layer.Step(expected, x, cache), layer.Step(y, x, loaded)); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(bits(y), bits(expected)) {
					t.Errorf("%v: what was loaded goes on differently", held)
				}
			}
			if bytes.Equal(must(cache.Save()), saved) {
				t.Errorf("%v: another state gives the same bytes", held)
			}
		}
	})
}

func TestSavingAppendsAndWrites(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	cache := busyCache(layer, litemamba.DTypeDefault)
	defer cache.Close()
	saved := must(cache.Save())

	before := []byte("before")
	if both := must(cache.AppendBinary(before)); string(both) != "before"+string(saved) || string(before) != "before" {
		t.Errorf("%d bytes are appended to %q", len(both)-6, before)
	}
	roomy := make([]byte, 3, 3+len(saved))
	if both := must(cache.AppendBinary(roomy)); &both[0] != &roomy[0] || !bytes.Equal(both[3:], saved) {
		t.Error("a buffer that is large enough must be filled where it lies")
	}

	var w bytes.Buffer
	if n, err := cache.WriteTo(&w); err != nil || n != int64(len(saved)) || !bytes.Equal(w.Bytes(), saved) {
		t.Errorf("%d bytes of %d are written, %v", n, len(saved), err)
	}
	full := errors.New("no space left")
	if n, err := cache.WriteTo(writer(func([]byte) (int, error) { return 5, full })); err != full || n != 5 {
		t.Errorf("a writer that fails after 5 bytes gives %d, %v", n, err)
	}
	// While it writes, the stream may go on.
	if _, err := cache.WriteTo(writer(func(b []byte) (int, error) { return len(b), cache.Reset() })); err != nil {
		t.Error(err)
	}

	config := layer.Config()
	config.LayerIdx = 0
	numbered := must(litemamba.New(config))
	defer numbered.Close()
	params := must(litemamba.NewInferenceParams(1))
	defer params.Close()
	if err := numbered.ForwardInference(make([]float32, 24), ramp(24), 1, 3, params); err != nil {
		t.Fatal(err)
	}
	if borrowed := params.Cache(0); borrowed.DType() != litemamba.F32 {
		t.Errorf("a borrowed cache is held in %v", borrowed.DType())
	}
	own := must(numbered.LoadCache(must(params.Cache(0).Save())))
	defer own.Close()
	if own.SeqlenOffset() != 3 {
		t.Errorf("a borrowed cache comes back at offset %d", own.SeqlenOffset())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// Whatever befalls the bytes is an error with its code, and never a cache.
func TestSavedCachesThatAreNone(t *testing.T) {
	config := litemamba.NewConfig(litemamba.STCN, 3)
	config.ConvDilations, config.DState, config.DConv = []int{1, 3}, 2, 3
	layer := must(litemamba.New(config))
	defer layer.Close()
	cache := busyCache(layer, litemamba.F16)
	defer cache.Close()
	saved := must(cache.Save())
	refused := func(what string, layer *litemamba.Layer, data []byte, code litemamba.Status, words string) {
		t.Helper()
		cache, err := layer.LoadCache(data)
		var e *litemamba.Error
		if err == nil {
			cache.Close()
			t.Errorf("%s: a cache is made", what)
		} else if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, words) {
			t.Errorf("%s: the error is %v; it must be %v with %q", what, err, code, words)
		}
	}

	for n := range saved {
		refused("cut short", layer, saved[:n], litemamba.ErrFormat, "")
	}
	refused("longer", layer, append(slices.Clone(saved), 0), litemamba.ErrFormat, "checksum")
	refused("nothing", layer, nil, litemamba.ErrFormat, "no saved cache")
	for i := range saved {
		altered := slices.Clone(saved)
		altered[i] ^= 0x10
		if 8 <= i && i < 12 { // the version
			refused("a later version", layer, altered, litemamba.ErrUnsupported, "version")
		} else {
			refused("altered", layer, altered, litemamba.ErrFormat, "")
		}
	}
	for words, change := range map[string]func(*litemamba.Config){
		"variant":            func(c *litemamba.Config) { c.Variant = litemamba.PTCN },
		"dtype":              func(c *litemamba.Config) { c.DType = litemamba.BF16 },
		"d_model":            func(c *litemamba.Config) { c.DModel, c.Expand = 6, 1 },
		"d_inner":            func(c *litemamba.Config) { c.Expand = 3 },
		"d_state":            func(c *litemamba.Config) { c.DState = 4 },
		"d_conv":             func(c *litemamba.Config) { c.DConv = 4 },
		"dt_rank":            func(c *litemamba.Config) { c.DtRank = 2 },
		"num_conv_dilations": func(c *litemamba.Config) { c.ConvDilations = []int{1} },
		"a dilation":         func(c *litemamba.Config) { c.ConvDilations = []int{3, 1} },
	} {
		other := config
		change(&other)
		otherLayer := must(litemamba.New(other))
		defer otherLayer.Close()
		refused("another "+words, otherLayer, saved, litemamba.ErrShapeMismatch, words)
	}
}
