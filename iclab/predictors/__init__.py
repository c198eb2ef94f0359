"""Closed-form answers to prompts: each predicts every label from the examples before it, all positions at once.

    Zero, Averaging                      answer 0; the mean of y x
    LeastSquares, Ridge, Lasso           minimise the squared error, plain or with a penalty
    Posterior, SparsePosterior           Bayes for Gaussian and for sparse weights
    DiscreteMMSE, Mixture                Bayes for a finite pool of weights, and for a choice between models
    GradientDescent(PlusPlus), StochasticGradientDescent            some steps of an algorithm on the examples so far
    Landweber, Newton                    the same along each eigenvector of XᵀX (`Spectral`)
    NearestNeighbours                    the mean label of the nearest examples
    GreedyTree, BoostedTrees             regression trees grown on the examples so far
    TrainedNetwork                       a two-layer network trained on the examples so far
    Featurised                           any of them on features Φ(x) in the place of x
    HalfSplit                            of several, the best on the second half when fitted to the first
    LogisticRegression, BinaryTest       for labels −1 and 1, and the test whether labels are such
    Unigram, Bigram                      counts of tokens and of pairs: answers to sequences of tokens
    ContextClasses, KnownClasses         whose class an item is, by the items before it or by what all classes are

`Linear` ones answer w_i·x_i and show their `weights`; `Bayesian` ones also know the `log_density` of a label.
"""

from iclab.predictors.averaging import Averaging
from iclab.predictors.classes import ContextClasses, KnownClasses
from iclab.predictors.counts import Bigram, TokenPredictor, Unigram
from iclab.predictors.discrete import DiscreteMMSE
from iclab.predictors.featurised import Featurised
from iclab.predictors.gradient import GradientDescent, GradientDescentPlusPlus, StochasticGradientDescent
from iclab.predictors.half_split import HalfSplit
from iclab.predictors.kernels import AttentionKernel, Kernel, NetworkKernel
from iclab.predictors.landweber import Landweber
from iclab.predictors.lasso import Lasso
from iclab.predictors.least_squares import LeastSquares
from iclab.predictors.logistic import BinaryTest, LogisticRegression
from iclab.predictors.mixture import Mixture
from iclab.predictors.neighbours import NearestNeighbours
from iclab.predictors.network import TrainedNetwork
from iclab.predictors.newton import Newton
from iclab.predictors.posterior import Posterior
from iclab.predictors.predictor import Bayesian, Linear, Predictor, Zero
from iclab.predictors.ridge import Ridge
from iclab.predictors.sparse import SparsePosterior
from iclab.predictors.spectral import Spectral
from iclab.predictors.trees import BoostedTrees, GreedyTree

__all__ = [
    "AttentionKernel",
    "Averaging",
    "Bayesian",
    "Bigram",
    "BinaryTest",
    "BoostedTrees",
    "ContextClasses",
    "DiscreteMMSE",
    "Featurised",
    "GradientDescent",
    "GradientDescentPlusPlus",
    "GreedyTree",
    "HalfSplit",
    "Kernel",
    "KnownClasses",
    "Landweber",
    "Lasso",
    "LeastSquares",
    "Linear",
    "LogisticRegression",
    "Mixture",
    "NearestNeighbours",
    "NetworkKernel",
    "Newton",
    "Posterior",
    "Predictor",
    "Ridge",
    "SparsePosterior",
    "Spectral",
    "StochasticGradientDescent",
    "TokenPredictor",
    "TrainedNetwork",
    "Unigram",
    "Zero",
]
