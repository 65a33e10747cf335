"""Networks of all kinds as predictors: PyTorch modules, ONNX sessions, functions, and bad ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace

import array_kinds
import numpy as np
import pytest

from cellpost import as_detections
from cellpost.models import as_predictor

torch = pytest.importorskip("torch")
BATCH = (4, 2, 16, 24)
F = np.float32


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request):
    kind = array_kinds.TORCH if request.param == "cpu" else array_kinds.TORCH_CUDA
    if (why_not := kind.why_not()) is not None:
        pytest.skip(why_not)
    return request.param


def some_batch(shape=BATCH, dtype=F, seed=0):
    return np.random.default_rng(seed).random(shape).astype(dtype)


class Network(torch.nn.Module):
    """A convolution and a normalisation, whose answers in training and in eval mode differ."""

    def __init__(self, n_in=2, n_out=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(n_out)

    def forward(self, x):
        return self.norm(self.conv(x))


def some_network(n_in=2, n_out=3):
    torch.manual_seed(0)
    network = Network(n_in, n_out)
    network.norm.running_mean.fill_(0.25)
    return network


def in_eval_mode(network, batch):
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        return network(batch)


class Returns(torch.nn.Module):
    """A module that answers with anything at all."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


# ---- PyTorch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["numpy", "torch"])
def test_a_module_predicts_in_eval_mode_without_gradients(where, given):
    network = some_network().to(where)
    predict = as_predictor(network, head="flows")
    assert predict.owns_output
    batch = torch.from_numpy(some_batch())
    got = predict(batch.numpy() if given == "numpy" else batch)
    assert got.device.type == where
    assert not got.requires_grad
    torch.testing.assert_close(got, in_eval_mode(network, batch.to(where)), rtol=0, atol=0)
    assert network.training


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_put_back(fails):
    network = some_network()
    network.conv.eval()
    modes = [part.training for part in network.modules()]
    seen = []

    def look(module, inputs):
        seen.extend(part.training for part in module.modules())
        if fails:
            raise RuntimeError("out of memory")

    network.register_forward_pre_hook(look)
    predict = as_predictor(network)
    if fails:
        with pytest.raises(RuntimeError, match=r"^out of memory$"):
            predict(some_batch())
    else:
        predict(some_batch())
    assert seen == [False] * 3
    assert [part.training for part in network.modules()] == modes == [True, False, True]
    network.eval()
    if not fails:
        predict(some_batch())
    assert not any(part.training for part in network.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True])
def test_scripts(frozen):
    network = some_network()
    script = torch.jit.script(network)
    if frozen:
        script = torch.jit.freeze(script.eval())
    got = as_predictor(script, head="flows")(some_batch())
    expected = in_eval_mode(network, torch.from_numpy(some_batch()))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # freezing folds the two layers
    assert frozen or all(part.training for part in script.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_do_not_own_their_outputs():
    network = some_network()
    assert not as_predictor(torch.compile(network)).owns_output
    assert not as_predictor(torch.nn.Sequential(torch.compile(network))).owns_output
    network.compile()
    assert not as_predictor(network).owns_output


def test_outputs_can_be_written_to_and_differentiated(where):
    for answer in (lambda x: x * 2, lambda x: (x * 2, x * 3), lambda x: (x * 2).half()):
        got = as_predictor(Returns(answer))(torch.ones(BATCH, device=where))
        got *= 2
        assert got.max() == 4 or got.max() == 6
        (got * torch.ones(1, device=where, requires_grad=True)).sum().backward()
    labels = as_predictor(Returns(lambda x: x[:, :1].int()), head="labels")(some_batch())
    labels += 1
    assert labels.min() == 1


def test_numpy_batches_are_not_copied():
    seen = []
    batch = some_batch()
    as_predictor(Returns(lambda x: seen.append(x.data_ptr()) or x))(batch)
    assert seen == [batch.ctypes.data]


@pytest.mark.filterwarnings("error")
def test_batches_that_torch_cannot_use_are_copied():
    batch = some_batch()
    read_only = batch.copy()
    read_only.flags.writeable = False
    for given in (read_only, batch[..., ::-1], np.broadcast_to(batch[:1], BATCH)):
        expected = given.copy()
        got = as_predictor(Returns(lambda x: x.mul_(2)))(given)
        np.testing.assert_array_equal(got.numpy(), 2 * expected)
        np.testing.assert_array_equal(given, expected)
    other = array_kinds.DlpackOnly(batch)
    other.shape = batch.shape
    np.testing.assert_array_equal(as_predictor(Returns(lambda x: x + 0))(other).numpy(), batch)


def test_floats_come_in_the_modules_dtype():
    seen = []
    network = some_network().double()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    assert as_predictor(network)(some_batch()).dtype == torch.float64
    as_predictor(network.float())(some_batch(dtype=np.float64))
    assert seen == [torch.float64, torch.float32]
    as_predictor(Returns(lambda x: seen.append(x.dtype) or x))(some_batch(dtype=np.float64))
    integers = Returns(lambda x: seen.append(x.dtype) or x.float())
    integers.weight = torch.nn.Parameter(torch.zeros(1))
    as_predictor(integers)(some_batch(dtype=np.uint8))
    assert seen[2:] == [torch.float64, torch.uint8]


def test_half_precision_becomes_float32():
    for dtype in (torch.float16, torch.bfloat16):
        got = as_predictor(Returns(lambda x, dtype=dtype: x.to(dtype)))(some_batch())
        assert got.dtype == torch.float32
        assert torch.equal(got, torch.from_numpy(some_batch()).to(dtype).float())
    got = as_predictor(lambda batch: batch)(some_batch(dtype=np.float16))
    assert got.dtype == np.float32


def test_amp_is_autocast_of_the_device(where):
    network = some_network().to(where)
    seen = []
    network.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    got = as_predictor(network, head="flows", amp=True)(some_batch())
    assert seen == [torch.get_autocast_dtype(where)]
    assert got.dtype == torch.float32
    as_predictor(network, amp=True)(some_batch(dtype=np.float64))  # which autocast leaves alone
    with torch.autocast(where):  # a caller's own
        as_predictor(network)(some_batch())
    as_predictor(network)(some_batch())
    assert seen[1:] == [torch.get_autocast_dtype(where)] * 2 + [torch.float32]


def test_the_module_is_moved_to_the_device(where):
    network = some_network()
    got = as_predictor(network, device=where)(some_batch())
    assert got.device.type == where
    assert next(network.parameters()).device.type == where
    fresh = as_predictor(Returns(lambda x: x), device=torch.device(where))
    assert fresh(some_batch()).device.type == where


@pytest.mark.gpu
def test_modules_without_parameters_stay_with_the_batch():
    if (why_not := array_kinds.TORCH_CUDA.why_not()) is not None:
        pytest.skip(why_not)
    assert as_predictor(Returns(lambda x: x))(torch.ones(BATCH, device="cuda")).is_cuda


# ---- ONNX Runtime -------------------------------------------------------------------------------


class Session:
    """What is used of an InferenceSession, one that knows which outputs it is asked for."""

    def __init__(self, outputs, type_="tensor(float)", names=("image",)):
        self._outputs, self._type, self._names = outputs, type_, names

    def get_inputs(self):
        return [SimpleNamespace(name=name, type=self._type) for name in self._names]

    def run(self, names, feed):
        (batch,) = feed.values()
        assert list(feed) == ["image"]
        assert isinstance(batch, np.ndarray)
        assert batch.flags.c_contiguous
        self.dtype = batch.dtype
        return [self._outputs[name](batch) for name in names or self._outputs]


def test_sessions():
    session = Session(
        {"style": lambda x: x[:, :, 0, 0], "maps": lambda x: x, "one": lambda x: x[:, 0]}
    )
    predict = as_predictor(session, head="flows")
    assert predict.owns_output
    batch = some_batch()
    for given in (batch, torch.from_numpy(batch), np.asfortranarray(batch)):
        got = predict(given)
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, np.concatenate([batch, batch[:, :1]], axis=1))
    named = as_predictor(session, keys=["one", "maps"])(batch)
    np.testing.assert_array_equal(named, np.concatenate([batch[:, :1], batch], axis=1))


@pytest.mark.parametrize(
    ("type_", "dtype"),
    [("tensor(float)", "f4"), ("tensor(float16)", "f2"), ("tensor(double)", "f8"), ("other", "f8")],
)
def test_sessions_get_floats_in_their_dtype(type_, dtype):
    session = Session({"maps": lambda x: x}, type_)
    as_predictor(session)(some_batch(dtype=np.float64))
    assert session.dtype == dtype
    if type_ == "tensor(float)":
        integers = Session({"maps": lambda x: x.astype(F)}, type_)
        as_predictor(integers)(some_batch(dtype=np.uint8))
        assert integers.dtype == np.uint8


def test_sessions_of_several_inputs_are_refused():
    with pytest.raises(
        ValueError, match="model: expected a session of one input; got 'image', 'd'"
    ):
        as_predictor(Session({}, names=("image", "d")))


@pytest.mark.peer
def test_onnx_runtime():
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["image", "image"], ["twice"], axis=1),
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        ],
        "graph",
        [helper.make_tensor_value_info("image", kind, ["n", 2, "h", "w"])],
        [
            helper.make_tensor_value_info("twice", kind, ["n", 4, "h", "w"]),
            helper.make_tensor_value_info("mean", kind, ["n", 2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = some_batch(dtype=np.float64)
    got = as_predictor(session, head="hover")(batch)
    assert got.dtype == F
    np.testing.assert_array_equal(got, np.concatenate([batch, batch], axis=1).astype(F))
    again = as_predictor(session, keys=("twice",))(batch)
    np.testing.assert_array_equal(again, got)
    assert not np.shares_memory(got, again)


# ---- functions and forms of outputs -------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param(k, id=k.name, marks=[pytest.mark.gpu] if k.on_cuda else [])
        for k in (array_kinds.NUMPY, array_kinds.TORCH, array_kinds.TORCH_CUDA, array_kinds.CUPY)
    ]
)
def library(request):
    if (why_not := request.param.why_not()) is not None:
        pytest.skip(why_not)
    return request.param


def test_functions_get_the_batch_as_it_is(library):
    batch, seen = library.put(some_batch()), []
    predict = as_predictor(lambda b: seen.append(b) or b)
    np.testing.assert_array_equal(library.get(predict(batch)), some_batch())
    assert seen[0] is batch
    assert not predict.owns_output


def maps_of(library, n_channels, seed=1, shape=BATCH, dtype=F):
    return library.put(some_batch((shape[0], n_channels, *shape[2:]), dtype, seed))


def test_forms_of_flows(library):
    flow, logit, batch = maps_of(library, 2), maps_of(library, 1, 2), library.put(some_batch())
    style = library.put(np.zeros((4, 256), F))
    whole = np.concatenate([library.get(flow), library.get(logit)], axis=1)
    forms = [
        library.put(whole),
        (flow, logit),
        [flow, logit[:, 0], style, None, "name", [flow]],
        (style, library.put(whole)),
        {"prob": logit, "flow": flow},
        OrderedDict(cellprob=logit[:, 0], dP=flow, style=style),
        {"logits": logit, "flows": flow, "np": style},
    ]
    for form in forms:
        got = as_predictor(lambda b, form=form: form, head="flows")(batch)
        assert library.owns(got)
        np.testing.assert_array_equal(library.get(got), whole)


def test_forms_of_hover(library):
    parts = {"np": 2, "hv": 2, "tp": 5}
    parts = {name: maps_of(library, n, i) for i, (name, n) in enumerate(parts.items())}
    host = {name: library.get(part) for name, part in parts.items()}
    batch = library.put(some_batch())

    def predicted(form, **options):
        return library.get(as_predictor(lambda b: form, head="hover", **options)(batch))

    whole = np.concatenate(list(host.values()), axis=1)
    np.testing.assert_array_equal(predicted({k: parts[k] for k in ("tp", "np", "hv")}), whole)
    np.testing.assert_array_equal(predicted(list(parts.values())), whole)
    named = {"nucleus_prediction": "np", "horizontal_vertical": "hv", "type_prediction": "tp"}
    np.testing.assert_array_equal(predicted({k: parts[v] for k, v in named.items()}), whole)
    untyped = {"np": parts["np"][:, 1], "hv": parts["hv"]}
    expected = np.concatenate([host["np"][:, 1:], host["hv"]], axis=1)
    np.testing.assert_array_equal(predicted(untyped), expected)
    np.testing.assert_array_equal(predicted(parts, keys=["hv", "tp"]), whole[:, 2:])


def test_keys_name_the_members():
    flow, logit = some_batch((4, 2, 16, 24)), some_batch((4, 16, 24))
    form = {"dP": None, "my_prob": logit, "my_flow": flow}
    predict = as_predictor(lambda b: form, head="flows", keys=("my_flow", "my_prob"))
    assert predict.keys == ("my_flow", "my_prob")
    np.testing.assert_array_equal(
        predict(some_batch()), np.concatenate([flow, logit[:, None]], axis=1)
    )
    with pytest.raises(ValueError, match="model: expected 'a' in its dict; got 'dP', 'my_prob'"):
        as_predictor(lambda b: form, keys=["a"])(some_batch())
    with pytest.raises(TypeError, match="model: expected a dict with the keys 'a'; got tuple"):
        as_predictor(lambda b: (b, b), keys=["a"])(some_batch())
    with pytest.raises(
        ValueError, match=r"keys: expected the members .*'dP', 'my_prob'.*; got None"
    ):
        as_predictor(lambda b: form)(some_batch())


def test_volumes():
    batch = some_batch((2, 1, 5, 6, 7))
    whole = some_batch((2, 4, 5, 6, 7))
    for form in (
        whole,
        (whole[:, :3], whole[:, 3]),
        {"dP": whole[:, :3], "cellprob": whole[:, 3:]},
    ):
        np.testing.assert_array_equal(as_predictor(lambda b, f=form: f, head="flows")(batch), whole)
    with pytest.raises(ValueError, match=r"expected 4 channels of head 'flows', 3 of .*; got 3"):
        as_predictor(lambda b: whole[:, :3], head="flows")(batch)
    labels = np.ones((2, 5, 6, 7), np.uint16)
    assert as_predictor(lambda b: labels, head="labels")(batch).shape == labels.shape


def test_any_channels_without_a_head():
    for n in (1, 2, 7):
        got = as_predictor(lambda b, n=n: np.repeat(b[:, :1], n, axis=1))(some_batch())
        assert got.shape == (4, n, 16, 24)


def test_labels(library):
    labels = np.arange(4 * 16 * 24, dtype=np.int64).reshape(4, 16, 24)
    for form in (labels, labels[:, None]):
        put = library.put(form)
        got = as_predictor(lambda b, put=put: put, head="labels")(library.put(some_batch()))
        assert library.owns(got)
        np.testing.assert_array_equal(library.get(got), labels)


def found(n=2):
    return {"boxes": np.ones((n, 4), F) * [0, 0, 1, 1], "scores": np.ones(n, F)}


def test_instances_are_outputs_for_each_tile():
    outputs = [found(n) for n in range(4)]
    got = as_predictor(lambda b: tuple(outputs), head="instances")(some_batch())
    assert [len(as_detections(one)) for one in got] == [0, 1, 2, 3]
    one = some_batch((1, *BATCH[1:]))
    mmdetection = [np.ones((3, 5), F)], [[]]
    for form, n in ((found(5), 5), ([found(5)], 5), ([np.ones((3, 5), F)], 3), (mmdetection[0], 3)):
        (got,) = as_predictor(lambda b, form=form: form, head="instances")(one)
        assert len(as_detections(got)) == n
    with pytest.raises(TypeError, match=r"model: expected a list of 4 outputs.*; got dict"):
        as_predictor(lambda b: found(), head="instances")(some_batch())
    with pytest.raises(ValueError, match=r"model: expected 4 outputs.*; got 3"):
        as_predictor(lambda b: outputs[:3], head="instances")(some_batch())


def test_empty_batches():
    batch = some_batch((0, *BATCH[1:]))
    assert as_predictor(lambda b: b)(batch).shape == batch.shape
    assert as_predictor(Returns(lambda x: x * 1))(batch).shape == batch.shape
    assert as_predictor(lambda b: [], head="instances")(batch) == []


def test_a_predictor_is_one():
    predict = as_predictor(lambda b: b, head="flows")
    assert as_predictor(predict) is predict
    assert as_predictor(predict, head="flows") is predict
    for options in ({"head": "hover"}, {"keys": ["a"]}, {"device": "cpu"}, {"amp": True}):
        with pytest.raises(ValueError, match=r"model: expected another model .* head='flows'"):
            as_predictor(predict, **options)


# ---- rejected -----------------------------------------------------------------------------------


def raises(error, message, answer, head=None, batch=None):
    with pytest.raises(error, match=message):
        as_predictor(answer, head=head)(some_batch() if batch is None else batch)


def test_bad_maps():
    def sized(*shape):
        return lambda b: np.zeros(shape, F)

    for head in (None, "flows", "hover"):
        for shape in ((3, 3, 16, 24), (4, 3, 8, 12), (4, 3, 24, 16), (4, 16), (3, 16, 24), ()):
            message = rf"model: expected shape \(4, K, 16, 24\); got \({', '.join(map(str, shape))}"
            raises(ValueError, message, sized(*shape), head)
    raises(
        ValueError, "model: expected 3 channels of head 'flows', 2 .* got 2", lambda b: b, "flows"
    )
    raises(ValueError, "expected 3 channels .* got 4", sized(4, 4, 16, 24), "flows")
    raises(ValueError, "expected 3 or more channels of head 'hover'.* got 2", lambda b: b, "hover")
    for dtype in (np.int32, np.uint8, bool, np.complex64):
        message = f"model: expected a floating dtype; got {np.dtype(dtype).name}"
        raises(TypeError, message, lambda b, dtype=dtype: b.astype(dtype))
    for answer in (None, 3.5, "maps"):
        message = f"model: expected an array of .*; got {type(answer).__name__}"
        raises(TypeError, message, lambda b, answer=answer: answer, "flows")


def test_bad_members():
    batch = some_batch()
    message = r"model: expected an array of shape \(4, K, 16, 24\) among its outputs; got "
    raises(
        ValueError, message + r"\[\(4, 256\), 'NoneType'\]", lambda b: (np.zeros((4, 256)), None)
    )
    raises(ValueError, message + r"\[\]", lambda b: [])
    message = "model: expected 'dP' or 'flows' or 'flow' in its dict; got 'cellprob'"
    raises(ValueError, message, lambda b: {"cellprob": batch}, "flows")
    raises(ValueError, "in its dict; got nothing", lambda b: {}, "flows")
    half = {"dP": batch, "cellprob": batch[:, 0, ::2, ::2]}
    message = r"model\['cellprob'\]: expected shape \(4, K, 16, 24\); got \(4, 8, 12\)"
    raises(ValueError, message, lambda b: half, "flows")
    mixed = (batch, torch.from_numpy(batch))
    message = (
        r"model\[1\]: expected an array of the library that model\[0\] is of, numpy; got torch"
    )
    raises(TypeError, message, lambda b: mixed)
    integers = (batch, batch[:, 0].astype(int))
    raises(TypeError, r"model\[1\]: expected a floating dtype; got int64", lambda b: integers)


def test_bad_labels():
    for shape in ((3, 16, 24), (4, 2, 16, 24), (4, 16, 23), (16, 24)):
        message = r"model: expected shape \(4, 16, 24\) of head 'labels'; got \("
        raises(ValueError, message, lambda b, shape=shape: np.zeros(shape, int), "labels")
    for dtype in (F, bool):
        message = f"model: expected an integer dtype of head 'labels'; got {np.dtype(dtype).name}"
        raises(TypeError, message, lambda b, dtype=dtype: b[:, 0].astype(dtype), "labels")
    raises(TypeError, "model: expected an array of .*; got list", lambda b: [b], "labels")


def test_bad_batches():
    raises(TypeError, "batch: expected an array .*; got list", lambda b: b, batch=[1])
    raises(
        ValueError,
        r"batch: expected .*; got shape \(2, 16, 24\)",
        lambda b: b,
        batch=np.zeros((2, 16, 24)),
    )


def test_errors_of_the_model_pass():
    error = KeyError("weights")

    def fails(batch):
        raise error

    with pytest.raises(KeyError) as caught:
        as_predictor(fails)(some_batch())
    assert caught.value is error


def test_bad_options():
    network = some_network()
    for head in ("stardist", "Flows", 3):
        with pytest.raises(
            ValueError, match=r"head: expected None or one of 'flows', 'hover'.*; got"
        ):
            as_predictor(network, head=head)
    for model in (None, 3, "model.onnx"):
        with pytest.raises(TypeError, match=r"model: expected a PyTorch module, .*; got"):
            as_predictor(model)
    for keys in ("maps", [], [1], {"a"}):
        with pytest.raises(TypeError, match="keys: expected one or more names; got"):
            as_predictor(network, keys=keys)
    for head in ("instances", "labels"):
        with pytest.raises(ValueError, match=f"keys: expected None with head '{head}'"):
            as_predictor(network, head=head, keys=["a"])
    for options in ({"device": "cpu"}, {"amp": True}):
        for model in (lambda b: b, Session({})):
            with pytest.raises(TypeError, match="device, amp: expected None and False but for"):
                as_predictor(model, **options)
    for device in ("toaster", 3.5):
        with pytest.raises(ValueError, match="device: expected a PyTorch device; got"):
            as_predictor(network, device=device)


def test_outputs_can_be_said_to_be_new():
    def function(batch):
        return batch

    assert not as_predictor(function).owns_output
    assert as_predictor(function, owns_output=True).owns_output
    assert as_predictor(as_predictor(function), owns_output=True).owns_output
    module = torch.nn.Identity()
    assert as_predictor(module).owns_output
    assert not as_predictor(module, owns_output=False).owns_output
