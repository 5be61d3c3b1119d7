"""The one place where real parts meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from app.catalog.data_folder import DataFolder
from app.catalog.keys import LocalKeys, open_keys
from app.catalog.local import LocalCatalog
from app.catalog.rows import IndexOptions
from app.core.product import ProductLimits
from app.encoders.preprocess import InputLimits
from app.judge import Judge
from app.matcher import Matcher
from app.model_store import Bundle, load_bundle
from app.pair_model import PairModel
from app.settings import Settings

if TYPE_CHECKING:
    from app.encoders.multimodal import MultimodalEncoder


def build_encoder(settings: Settings, bundle: Bundle) -> MultimodalEncoder:
    """Loads the towers of a bundle. Raises BundleError or NotReady."""
    from app.encoders import runtime  # PyTorch takes seconds to import: other parts get ready meanwhile
    from app.encoders.engine_cache import EngineCache, places
    from app.encoders.multimodal import MultimodalEncoder

    limits = InputLimits(
        settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side_px, settings.max_title_chars
    )
    chosen = runtime.choose(settings.device, settings.engine, settings.engine_threads)
    cache = EngineCache(places(bundle.folder, settings.data_dir, settings.engine_cache), bundle.fingerprint)
    return MultimodalEncoder(bundle.manifest.spec(), bundle.folder, chosen, limits, cache)


def product_limits(settings: Settings) -> ProductLimits:
    """Returns what products, filters and tables may hold, as the settings say."""
    return ProductLimits(
        settings.max_photos, settings.max_attributes, settings.max_attribute_chars, settings.max_filter_values,
        settings.max_table_columns,
    )  # fmt: skip


def build_pair_model(bundle: Bundle) -> PairModel | None:
    """Loads the pair model of a bundle, if it has one. Raises DimensionMismatch."""
    spec = bundle.manifest.pairs
    return None if spec is None else PairModel.load(spec, bundle.folder)


def build_judge(bundle: Bundle) -> Judge:
    """Joins thresholds and pair model of a bundle. Raises DimensionMismatch."""
    return Judge(bundle.manifest.encoder_fusion(), bundle.manifest.decision(), build_pair_model(bundle))


def build_matcher(settings: Settings) -> Matcher:
    """Loads the bundle, opens the data folder, and joins them.

    Raises:
        BundleError: the bundle must not be served.
        CatalogError: the data folder must not be served, or not with this bundle.
        NotReady: the device that was asked for is not there.
    """
    bundle = load_bundle(settings.bundle)
    data = DataFolder(settings.data_dir, recover=False)  # before the towers: a folder in use is refused at once
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="catalog") as pool:
            catalog = pool.submit(_open_catalog, settings, bundle, data)  # large ones take seconds, and so do the towers
            encoder = build_encoder(settings, bundle)
        gpu_memory = encoder.runtime.memory_bytes
        return Matcher(encoder, catalog.result(), build_judge(bundle), bundle.label, product_limits(settings), gpu_memory)
    except BaseException:
        data.close()
        raise


def _open_catalog(settings: Settings, bundle: Bundle, data: DataFolder) -> LocalCatalog:
    data.recover()
    options = IndexOptions(settings.index_precision, settings.index_search)
    fusion = bundle.manifest.encoder_fusion()
    return LocalCatalog(data, fusion, bundle.fingerprint, options, cache_bytes=settings.record_cache_bytes)


def build_keys(settings: Settings) -> LocalKeys:
    """Opens the API keys of the data folder, beside whoever uses it. Raises CatalogError."""
    return open_keys(settings.data_dir)
