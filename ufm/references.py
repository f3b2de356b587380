"""The literature that the oracles cite.

``docs/references.bib`` is this list in BibTeX (:func:`bibtex`); a test holds the two together.  An oracle from outside
brings its references with it (:func:`register_reference`).
"""

from __future__ import annotations

import dataclasses
import re

from ._registry import Registry


@dataclasses.dataclass(frozen=True)
class Reference:
    """One publication.

    Attributes:
        key: bibliography key, author + year + first word of the title.
        authors: as in BibTeX without accents' braces, joined by ``and``, each *Last, First*.
        title: the title.
        year: year of the version named by ``venue``.
        venue: journal or conference; ``arXiv preprint`` if neither.
        arxiv: arXiv number, or an empty string.
    """

    key: str
    authors: str
    title: str
    year: int
    venue: str
    arxiv: str = ""

    @property
    def label(self) -> str:
        """Short label in the text: *Zhu et al. 2021*."""
        names = [author.split(",")[0] for author in self.authors.split(" and ")]
        if len(names) > 3:
            return f"{names[0]} et al. {self.year}"
        who = ", ".join(names[:-1]) + " & " + names[-1] if len(names) > 1 else names[0]
        return f"{who} {self.year}"

    def __str__(self) -> str:
        parts = [self.label, self.title]
        if self.venue != ARXIV:
            parts.append(self.venue)
        if self.arxiv:
            parts.append(f"arXiv:{self.arxiv}")
        return ". ".join(parts) + "."


ARXIV = "arXiv preprint"
_NEURIPS = "Advances in Neural Information Processing Systems"
_ICML = "International Conference on Machine Learning"
_ICLR = "International Conference on Learning Representations"

REFERENCES: Registry[Reference] = Registry("reference")
"""All references by key."""

REFERENCES.update(
    (entry.key, entry)
    for entry in (
        Reference(
            "alcala2026neural",
            "Alcala, James and Andreeva, Rayna and Kobzar, Vladimir A. and Mixon, Dustin G. and Na, Sanghoon and "
            "Sule, Shashank and Xie, Yangxinyu",
            "Neural collapse in the orthoplex regime",
            2026,
            ARXIV,
            "2603.20587",
        ),
        Reference(
            "alefeld1982square",
            "Alefeld, G. and Schneider, N.",
            "On square roots of M-matrices",
            1982,
            "Linear Algebra and its Applications",
        ),
        Reference(
            "andriopoulos2024prevalence",
            "Andriopoulos, George and Dong, Zixuan and Guo, Li and Zhao, Zifan and Ross, Keith",
            "The Prevalence of Neural Collapse in Neural Multivariate Regression",
            2024,
            _NEURIPS,
            "2409.04180",
        ),
        Reference(
            "beaglehole2024average",
            "Beaglehole, Daniel and Súkeník, Peter and Mondelli, Marco and Belkin, Mikhail",
            "Average gradient outer product as a mechanism for deep neural collapse",
            2024,
            _NEURIPS,
            "2402.13728",
        ),
        Reference(
            "behnia2023implicit",
            "Behnia, Tina and Kini, Ganesh Ramachandra and Vakilian, Vala and Thrampoulidis, Christos",
            "On the Implicit Geometry of Cross-Entropy Parameterizations for Label-Imbalanced Data",
            2023,
            "International Conference on Artificial Intelligence and Statistics",
            "2303.07608",
        ),
        Reference(
            "behnia2024supervised",
            "Behnia, Tina and Thrampoulidis, Christos",
            "Supervised Contrastive Representation Learning: Landscape Analysis with Unconstrained Features",
            2024,
            "IEEE International Symposium on Information Theory",
            "2402.18884",
        ),
        Reference(
            "cao2019learning",
            "Cao, Kaidi and Wei, Colin and Gaidon, Adrien and Arechiga, Nikos and Ma, Tengyu",
            "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
            2019,
            _NEURIPS,
            "1906.07413",
        ),
        Reference(
            "chen2022perfectly",
            "Chen, Mayee F. and Fu, Daniel Y. and Narayan, Avanika and Zhang, Michael and Song, Zhao and "
            "Fatahalian, Kayvon and Ré, Christopher",
            "Perfectly Balanced: Improving Transfer and Robustness of Supervised Contrastive Learning",
            2022,
            _ICML,
            "2204.07596",
        ),
        Reference(
            "cui2019class",
            "Cui, Yin and Jia, Menglin and Lin, Tsung-Yi and Song, Yang and Belongie, Serge",
            "Class-Balanced Loss Based on Effective Number of Samples",
            2019,
            "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
            "1901.05555",
        ),
        Reference(
            "dang2023neural",
            "Dang, Hien and Tran, Tho and Osher, Stanley and Tran-The, Hung and Ho, Nhat and Nguyen, Tan",
            "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
            2023,
            _ICML,
            "2301.00437",
        ),
        Reference(
            "dang2024neural",
            "Dang, Hien and Tran, Tho and Nguyen, Tan and Ho, Nhat",
            "Neural Collapse for Cross-entropy Class-Imbalanced Learning with Unconstrained ReLU Features Model",
            2024,
            _ICML,
            "2401.02058",
        ),
        Reference(
            "fang2021exploring",
            "Fang, Cong and He, Hangfeng and Long, Qi and Su, Weijie J.",
            "Exploring deep neural networks via layer-peeled model: Minority collapse in imbalanced training",
            2021,
            "Proceedings of the National Academy of Sciences",
            "2101.12699",
        ),
        Reference(
            "garrod2024unifying",
            "Garrod, Connall and Keating, Jonathan P.",
            "Unifying Low Dimensional Observations in Deep Learning Through the Deep Linear Unconstrained Feature "
            "Model",
            2024,
            ARXIV,
            "2404.06106",
        ),
        Reference(
            "garrod2025persistence",
            "Garrod, Connall and Keating, Jonathan P.",
            "The Persistence of Neural Collapse Despite Low-Rank Bias",
            2025,
            _NEURIPS,
            "2410.23169",
        ),
        Reference(
            "graf2021dissecting",
            "Graf, Florian and Hofer, Christoph and Niethammer, Marc and Kwitt, Roland",
            "Dissecting Supervised Contrastive Learning",
            2021,
            _ICML,
            "2102.08817",
        ),
        Reference(
            "hong2023neural",
            "Hong, Wanli and Ling, Shuyang",
            "Neural Collapse for Unconstrained Feature Model under Cross-entropy Loss with Imbalanced Data",
            2023,
            ARXIV,
            "2309.09725",
        ),
        Reference(
            "jacot2025wide",
            "Jacot, Arthur and Súkeník, Peter and Wang, Zihan and Mondelli, Marco",
            "Wide Neural Networks Trained with Weight Decay Provably Exhibit Neural Collapse",
            2025,
            _ICLR,
            "2410.04887",
        ),
        Reference(
            "jiang2024generalized",
            "Jiang, Jiachen and Zhou, Jinxin and Wang, Peng and Qu, Qing and Mixon, Dustin G. and You, Chong and "
            "Zhu, Zhihui",
            "Generalized Neural Collapse for a Large Number of Classes",
            2024,
            _ICML,
            "2310.05351",
        ),
        Reference(
            "khosla2020supervised",
            "Khosla, Prannay and Teterwak, Piotr and Wang, Chen and Sarna, Aaron and Tian, Yonglong and "
            "Isola, Phillip and Maschinot, Aaron and Liu, Ce and Krishnan, Dilip",
            "Supervised Contrastive Learning",
            2020,
            _NEURIPS,
            "2004.11362",
        ),
        Reference(
            "kini2021label",
            "Kini, Ganesh Ramachandra and Paraskevas, Orestis and Oymak, Samet and Thrampoulidis, Christos",
            "Label-Imbalanced and Group-Sensitive Classification under Overparameterization",
            2021,
            _NEURIPS,
            "2103.01550",
        ),
        Reference(
            "kini2024symmetric",
            "Kini, Ganesh Ramachandra and Vakilian, Vala and Behnia, Tina and Gill, Jaidev and Thrampoulidis, Christos",
            "Symmetric Neural-Collapse Representations with Supervised Contrastive Loss: The Impact of ReLU and "
            "Batching",
            2024,
            _ICLR,
            "2306.07960",
        ),
        Reference(
            "lee2024analysis",
            "Lee, Chungpa and Chang, Joonhwan and Sohn, Jy-yong",
            "Analysis of Using Sigmoid Loss for Contrastive Learning",
            2024,
            "International Conference on Artificial Intelligence and Statistics",
            "2402.12613",
        ),
        Reference(
            "lee2025theoretical",
            "Lee, Chungpa and Oh, Jeongheon and Lee, Kibok and Sohn, Jy-yong",
            "A Theoretical Framework for Preventing Class Collapse in Supervised Contrastive Learning",
            2025,
            "International Conference on Artificial Intelligence and Statistics",
            "2503.08203",
        ),
        Reference(
            "li2024neural",
            "Li, Pengyu and Li, Xiao and Wang, Yutong and Qu, Qing",
            "Neural Collapse in Multi-label Learning with Pick-all-label Loss",
            2024,
            _ICML,
            "2310.15903",
        ),
        Reference(
            "lin2017focal",
            "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Dollár, Piotr",
            "Focal Loss for Dense Object Detection",
            2017,
            "IEEE International Conference on Computer Vision",
            "1708.02002",
        ),
        Reference(
            "liu2024exploration",
            "Liu, Haixia",
            "The Exploration of Neural Collapse under Imbalanced Data",
            2024,
            ARXIV,
            "2411.17278",
        ),
        Reference(
            "lu2022neural",
            "Lu, Jianfeng and Steinerberger, Stefan",
            "Neural Collapse Under Cross-entropy Loss",
            2022,
            "Applied and Computational Harmonic Analysis",
            "2012.08465",
        ),
        Reference(
            "massion2026role",
            "Massion, Bastien and Makhlouf, Roy and Massart, Estelle",
            "The role of class encoding in neural collapse",
            2026,
            ARXIV,
            "2606.00344",
        ),
        Reference(
            "menon2021long",
            "Menon, Aditya Krishna and Jayasumana, Sadeep and Rawat, Ankit Singh and Jain, Himanshu and Veit, Andreas "
            "and Kumar, Sanjiv",
            "Long-tail learning via logit adjustment",
            2021,
            _ICLR,
            "2007.07314",
        ),
        Reference(
            "papyan2020prevalence",
            "Papyan, Vardan and Han, X. Y. and Donoho, David L.",
            "Prevalence of neural collapse during the terminal phase of deep learning training",
            2020,
            "Proceedings of the National Academy of Sciences",
            "2008.08186",
        ),
        Reference(
            "shen2024geometric",
            "Shen, Yi and Gu, Shao",
            "Geometric Analysis of Unconstrained Feature Models with d=K",
            2024,
            ARXIV,
            "2407.10702",
        ),
        Reference(
            "sukenik2023deep",
            "Súkeník, Peter and Mondelli, Marco and Lampert, Christoph H.",
            "Deep Neural Collapse Is Provably Optimal for the Deep Unconstrained Features Model",
            2023,
            _NEURIPS,
            "2305.13165",
        ),
        Reference(
            "sukenik2024neural",
            "Súkeník, Peter and Lampert, Christoph H. and Mondelli, Marco",
            "Neural collapse versus low-rank bias: Is deep neural collapse really optimal?",
            2024,
            _NEURIPS,
            "2405.14468",
        ),
        Reference(
            "sukenik2025globally",
            "Súkeník, Peter and Lampert, Christoph H. and Mondelli, Marco",
            "Neural Collapse is Globally Optimal in Deep Regularized ResNets and Transformers",
            2025,
            ARXIV,
            "2505.15239",
        ),
        Reference(
            "thrampoulidis2022imbalance",
            "Thrampoulidis, Christos and Kini, Ganesh Ramachandra and Vakilian, Vala and Behnia, Tina",
            "Imbalance Trouble: Revisiting Neural-Collapse Geometry",
            2022,
            _NEURIPS,
            "2208.05512",
        ),
        Reference(
            "tirer2022extended",
            "Tirer, Tom and Bruna, Joan",
            "Extended Unconstrained Features Model for Exploring Deep Neural Collapse",
            2022,
            _ICML,
            "2202.08087",
        ),
        Reference(
            "tirer2023perturbation",
            "Tirer, Tom and Huang, Haoxiang and Niles-Weed, Jonathan",
            "Perturbation Analysis of Neural Collapse",
            2023,
            _ICML,
            "2210.16658",
        ),
        Reference(
            "vock2026unified",
            "Vock, Raphael and Duchesnay, Edouard and Dufumier, Benoit",
            "A Unified Geometric Framework for Weighted Contrastive Learning",
            2026,
            ARXIV,
            "2605.13943",
        ),
        Reference(
            "yaras2022neural",
            "Yaras, Can and Wang, Peng and Zhu, Zhihui and Balzano, Laura and Qu, Qing",
            "Neural Collapse with Normalized Features: A Geometric Analysis over the Riemannian Manifold",
            2022,
            _NEURIPS,
            "2209.09211",
        ),
        Reference(
            "ye2020identifying",
            "Ye, Han-Jia and Chen, Hong-You and Zhan, De-Chuan and Chao, Wei-Lun",
            "Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning",
            2020,
            ARXIV,
            "2001.01385",
        ),
        Reference(
            "zhou2022all",
            "Zhou, Jinxin and You, Chong and Li, Xiao and Liu, Kangning and Liu, Sheng and Qu, Qing and Zhu, Zhihui",
            "Are All Losses Created Equal: A Neural Collapse Perspective",
            2022,
            _NEURIPS,
            "2210.02192",
        ),
        Reference(
            "zhou2022optimization",
            "Zhou, Jinxin and Li, Xiao and Ding, Tianyu and You, Chong and Qu, Qing and Zhu, Zhihui",
            "On the Optimization Landscape of Neural Collapse under MSE Loss: Global Optimality with Unconstrained "
            "Features",
            2022,
            _ICML,
            "2203.01238",
        ),
        Reference(
            "zhu2021geometric",
            "Zhu, Zhihui and Ding, Tianyu and Zhou, Jinxin and Li, Xiao and You, Chong and Sulam, Jeremias and "
            "Qu, Qing",
            "A Geometric Analysis of Neural Collapse with Unconstrained Features",
            2021,
            _NEURIPS,
            "2105.02375",
        ),
    )
)


def register_reference(reference: Reference) -> Reference:
    """Put a reference into the bibliography, and return it; one that is there already stays.

    Raises:
        ValueError: it is no :class:`Reference`, or its key is taken by another one.

    >>> register_reference(REFERENCES["liu2024exploration"]).label
    'Liu 2024'
    """
    if not isinstance(reference, Reference):
        raise ValueError(f"reference: {type(reference).__name__} is not a Reference; give ufm.theory.Reference(...)")
    if REFERENCES.get(reference.key) == reference:
        return reference
    return REFERENCES.register(reference.key, reference)


def references_in(citation: str) -> list[Reference]:
    """The references that a citation names, by key or by arXiv number, in the order of their appearance.

    >>> [entry.key for entry in references_in("tirer2022extended, Theorem 3.1; related: arXiv 2411.17278")]
    ['tirer2022extended', 'liu2024exploration']
    """
    by_number = {entry.arxiv: entry for entry in REFERENCES.values() if entry.arxiv}
    known = {**by_number, **REFERENCES}
    words = re.findall(r"\d{4}\.\d{5}|\w+", citation)
    return list(dict.fromkeys(known[word] for word in words if word in known))


def cite(citation: str) -> str:
    """The full references that a citation names, one per line.

    Args:
        citation: a key of :data:`REFERENCES`, or an oracle's ``citation``, which names references by key or by arXiv
            number and may add a theorem.

    Raises:
        KeyError: it names no reference of the bibliography.

    >>> cite("liu2024exploration")
    'Liu 2024. The Exploration of Neural Collapse under Imbalanced Data. arXiv:2411.17278.'
    """
    found = references_in(citation)
    if not found:
        raise KeyError(f"{citation!r} names no reference of the bibliography")
    return "\n".join(map(str, found))


def bibtex() -> str:
    """The bibliography in BibTeX, sorted by key: the text of ``docs/references.bib``."""
    return "".join(_entry(REFERENCES[key]) for key in sorted(REFERENCES))


_JOURNALS = (
    "Proceedings of the National Academy of Sciences",
    "Linear Algebra and its Applications",
    "Applied and Computational Harmonic Analysis",
    ARXIV,
)


def _entry(entry: Reference) -> str:
    kind, place = ("article", "journal") if entry.venue in _JOURNALS else ("inproceedings", "booktitle")
    fields = {
        "author": entry.authors,
        "title": f"{{{entry.title}}}",
        place: entry.venue,
        "year": str(entry.year),
    }
    if entry.arxiv:
        fields |= {"eprint": entry.arxiv, "archivePrefix": "arXiv"}
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{entry.key},\n{lines}}}\n"
