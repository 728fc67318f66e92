"""The other saliency methods (part `methods`): what an explanation costs in our own forward passes, and beside the
library that has it: zennit, zennit-crp, pytorch-grad-cam, captum, all on torch.

Both sides make the whole explanation of one picture; the libraries' hooks are on the network before the clock starts,
where they let us. Where a library takes a batch size, it is measured with two, and the faster one counts.
"""
import contextlib
import copy
import warnings

import peers
import torch
from report import Row

NET, SCORE_NET = "resnet50", "resnet18"  # whose last layer has 512 channels: as many forward passes on either side
# The layer whose channels CRP looks at: in the file, in torch.
CONDITIONED = {"resnet50": ("/layer3/layer3.5/relu_2/Relu", "layer3.5"), "tiny_resnet": ("/stem/stem.0/Conv", "stem")}
CHANNELS = [5, 11]
CAM_LAYERS = {"tiny_resnet": lambda module: module.blocks[-1]}  # elsewhere layer4
SAMPLES = 25
COMPOSITES = {"epsilon_plus_flat": {}, "epsilon_plus": {"lrp.composite": "epsilon_plus"},
              "epsilon_gamma_box": {"lrp.composite": "epsilon_gamma_box"},
              "epsilon_alpha2_beta1": {"lrp.composite": "epsilon_alpha2_beta1"},
              "epsilon on every layer": {"lrp.conv": "epsilon", "lrp.first": "epsilon"}}


def steps(options, report, folder):
    """(what, about how many seconds, function) of all that is to be done. On the networks that the goals name, or
    where neither is asked for, to try it, on the first."""
    if "methods" not in options.parts or "f32" not in options.precisions:
        return
    nets = {net.name: net for net in options.nets}
    spare = options.nets[0] if not {NET, SCORE_NET} & set(nets) else None
    for name, kinds in ((NET, (relevance, composites, samples, ablation)), (SCORE_NET, (scores,))):
        net = nets.get(name, spare)
        for kind in kinds if net else ():
            yield (f"methods: {kind.__name__} {net.name}", SECONDS[kind] if net.size > 64 else 2,
                   lambda tick, net=net, kind=kind: measure(Block(net, options, report), kind, tick))


class Block:
    """What takes turns, and the rows made of it."""

    def __init__(self, net, options, report):
        self.net, self.options, self.report, self.peers = net, options, report, {}

    def ours(self, name, only, **settings):
        self.peers[name] = peers.Ours(self.net, self.options.threads, only, **settings)

    def theirs(self, name, make, once=False):
        torch.set_num_threads(self.options.threads)
        module = copy.deepcopy(self.net.module())  # for hooks of its own
        for m in module.modules():
            if hasattr(m, "inplace"):
                m.inplace = False  # hooks want what an activation would overwrite
        self.peers[name] = peers.InPython(name, make(module, torch.from_numpy(self.net.picture())[None]), once)

    def price(self, what, ours, own, goal=None, note="input to map"):
        """In our own forward passes."""
        self.row(what, ours, own, self.times.ratio((ours,), (own,)), goal and ("<=", goal), note)

    def compare(self, what, ours, theirs, goal=None, note=""):
        """With the faster of theirs."""
        best = min(theirs, key=lambda name: self.times.median(f"{name}.{name}"))
        series = f"{best}.{best}"
        if len(theirs) > 1:
            note = "; ".join(filter(None, [note, f"theirs the faster of {' and '.join(theirs)}: {best}"]))
        if len(self.times[series]) == 1:
            note += "; theirs ran once"
        self.row(what, ours, series, self.times.ratio((series,), (ours,)), goal and (">=", goal), note)

    def row(self, what, ours, theirs, ratio, goal, note):
        middle, low, high, shortest = ratio
        self.report.add(Row("methods", what, self.net.name, "f32", self.options.threads, self.times.median(ours),
                            self.times.median(theirs), "ms", middle, low, high, shortest, goal, note))


def measure(block, kind, tick):
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zennit's of hooks, captum's of gradients
        stack.callback(lambda: [peer.close() for peer in block.peers.values()])
        rows = kind(block)
        block.times = peers.rounds(block.peers, block.options.rounds, tick)
        for row in rows:
            row()


# ---- LRP and CRP ----


def zennit_lrp(module, x):
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer
    composite = EpsilonPlusFlat(canonizers=[ResNetCanonizer()])
    composite.register(module)

    def call():
        leaf = x.clone().requires_grad_(True)
        y = module(leaf)
        top = torch.zeros_like(y).index_fill_(1, y.argmax(1), 1)
        return torch.autograd.grad(y, leaf, top * y.detach())[0]

    return call


def zennit_crp(module, x, layer):
    from crp.attribution import CondAttribution
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer
    composite, attribute = EpsilonPlusFlat(canonizers=[ResNetCanonizer()]), CondAttribution(module, no_param_grad=True)
    with torch.no_grad():
        target = int(module(x).argmax())

    def call():
        return attribute(x.clone().requires_grad_(True), [{"y": [target], layer: CHANNELS}], composite).heatmap

    return call


def relevance(block):
    node, layer = CONDITIONED[block.net.name]
    block.ours("ours", "forward,lrp,crp",
               **{"explain.methods": ["lrp", "crp"], "crp.layer": node, "crp.channels": CHANNELS})
    block.theirs("zennit", zennit_lrp)
    block.theirs("zennit-crp", lambda module, x: zennit_crp(module, x, layer))
    return [lambda: block.price("LRP / own forward", "ours.lrp", "ours.forward", 2.5, "epsilon_plus_flat"),
            lambda: block.price("CRP / own forward", "ours.crp", "ours.forward", 2.5, f"two channels of {node}"),
            lambda: block.compare("LRP / zennit", "ours.lrp", ["zennit"], note="epsilon_plus_flat"),
            lambda: block.compare("CRP / zennit-crp", "ours.crp", ["zennit-crp"])]


def composites(block):
    """What the choice of rules costs; the goal is that of the default."""
    for name, settings in COMPOSITES.items():
        block.ours(name, "forward,lrp", **{"explain.methods": ["lrp"], **settings})
    return [lambda name=name: block.price(f"LRP, {name} / own forward", f"{name}.lrp", f"{name}.forward")
            for name in COMPOSITES]


# ---- many samples ----


def captum_ig(module, x, batch):
    from captum.attr import IntegratedGradients
    attribute = IntegratedGradients(module).attribute
    return lambda: attribute(x, baselines=0, target=0, n_steps=SAMPLES, internal_batch_size=batch)


def captum_smoothgrad(module, x, batch):
    from captum.attr import NoiseTunnel, Saliency
    attribute, sigma = NoiseTunnel(Saliency(module)).attribute, .15 * float(x.max() - x.min())
    return lambda: attribute(x, nt_type="smoothgrad", nt_samples=SAMPLES, nt_samples_batch_size=batch, stdevs=sigma,
                             target=0)


def samples(block):
    """The quadrature is captum's default, which takes as many gradients as there are steps."""
    block.ours("ours", "ig,smoothgrad", **{"ig.steps": SAMPLES, "ig.quadrature": "gausslegendre",
                                           "smoothgrad.samples": SAMPLES, "explain.target": 0})
    for batch in (1, SAMPLES):
        block.theirs(f"ig, batch {batch}", lambda module, x: captum_ig(module, x, batch))
        block.theirs(f"smoothgrad, batch {batch}", lambda module, x: captum_smoothgrad(module, x, batch))

    def row(what, method):
        block.compare(what, f"ours.{method}", [f"{method}, batch {batch}" for batch in (1, SAMPLES)], 2)

    return [lambda: row("Integrated Gradients, 25 steps / captum", "ig"),
            lambda: row("SmoothGrad, 25 samples / captum", "smoothgrad")]


# ---- class activation maps ----


def grad_cam(kind, net, module, x, batch):
    """pytorch-grad-cam's; it reports its progress on standard error."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    module.requires_grad_(False)
    layer = CAM_LAYERS.get(net.name, lambda m: m.layer4[-1])(module)
    cam = getattr(pytorch_grad_cam, kind)(model=module, target_layers=[layer])
    cam.batch_size = batch

    def call():
        with open("/dev/null", "w") as quiet, contextlib.redirect_stderr(quiet):
            return cam(input_tensor=x.clone().requires_grad_(True), targets=[ClassifierOutputTarget(0)])

    return call


def ablation(block):
    """The library runs the network once per channel: 2048 times."""
    block.ours("ours", "forward,ablationcam", **{"explain.target": 0})
    block.theirs("pytorch-grad-cam", lambda module, x: grad_cam("AblationCAM", block.net, module, x, 32), once=True)
    return [lambda: block.price("AblationCAM / own forward", "ours.ablationcam", "ours.forward", 2.5),
            lambda: block.compare("AblationCAM / pytorch-grad-cam", "ours.ablationcam", ["pytorch-grad-cam"],
                                  note="ours in closed form: what follows the layer is linear")]


def scores(block):
    block.ours("ours", "scorecam", **{"explain.target": 0})
    for batch in (16, 1):  # its default, and what keeps a picture's values in the cache
        block.theirs(f"batch {batch}", lambda module, x: grad_cam("ScoreCAM", block.net, module, x, batch), once=True)
    return [lambda: block.compare("ScoreCAM, last layer / pytorch-grad-cam", "ours.scorecam",
                                  ["batch 16", "batch 1"], 5)]


SECONDS = {relevance: 20, composites: 15, samples: 240, ablation: 300, scores: 150}
