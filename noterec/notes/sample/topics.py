"""The subjects of the synthetic platform: a tree of categories, and for each topic several wordings that share no word.

A topic is three lines, `Top/Sub | name | wording | wording | wording | Chinese wording`. Two notes on one topic in different
wordings have no distinctive word in common: only who reads them shows that they belong together.
"""

from __future__ import annotations

import dataclasses
from functools import cache

_TOPICS = """
Food/Baking | sourdough
    sourdough levain crumb proofing banneton | yeast loaf kneading crust boule
    flour autolyse scoring bulk-rise rye | 酸面包 发酵 揉面 面团
Food/Baking | layer cakes
    sponge frosting piping fondant tiers | buttercream ganache genoise birthday-cake ruffles
    icing victoria batter turntable sprinkles | 奶油 蛋糕 裱花 戚风
Food/Baking | cookies
    cookies chocolate-chip dough snickerdoodle oatmeal | biscuits shortbread gingerbread jam-thumbprint bakesale
    macarons meringue almond-flour piped-shells filling | 曲奇 饼干 马卡龙 黄油
Food/Noodles | ramen
    ramen tonkotsu chashu nori shoyu | broth marrow alkaline-noodles ajitama menma
    tsukemen dipping-bowl miso kaedama umami | 拉面 叉烧 豚骨 溏心蛋
Food/Noodles | pasta
    carbonara guanciale pecorino rigatoni semolina | spaghetti marinara basil parmesan al-dente
    tagliatelle ragu bolognese nonna eggs-and-flour | 意面 番茄酱 罗勒 芝士
Food/Drinks | coffee
    espresso portafilter crema grinder latte-art | pour-over gooseneck bloom v60 single-origin
    barista roaster cortado beans tamping | 咖啡 手冲 拿铁 咖啡豆
Food/Drinks | tea
    oolong gaiwan tieguanyin infusions pu-erh | matcha chasen usucha ceremony tatami
    sencha kettle darjeeling steeping leaves | 茶叶 盖碗 普洱 泡茶
Food/Drinks | cocktails
    negroni vermouth campari bitters coupe | mixology shaker daiquiri rum muddler
    bartender highball whisky garnish tonic | 鸡尾酒 金酒 调酒 威士忌
Food/Homecooking | meal prep
    meal-prep containers quinoa macros reheating | batch-cooking freezer lentils portions lunchbox
    bento tamagoyaki onigiri edamame furoshiki | 备餐 便当 减脂餐 鸡胸肉
Food/Homecooking | barbecue
    brisket smoker hickory bark pitmaster | grill charcoal ribs marinade tongs
    skewers yakitori embers binchotan glaze | 烧烤 炭火 肉串 烤肉
Food/Homecooking | fermentation
    kimchi napa gochugaru brine crock | kombucha scoby second-ferment fizz starter-culture
    pickles sauerkraut dill mason-jar lactic | 泡菜 腌制 康普茶 酸黄瓜
Travel/Asia | kyoto temples
    kyoto fushimi-inari torii gion ryokan | arashiyama bamboo-grove kinkakuji shrine geisha
    zen-garden kaiseki machiya higashiyama maple | 京都 神社 红叶 和服
Travel/Asia | bali beaches
    ubud rice-terrace canggu villa warung | uluwatu cliff-temple kecak seminyak sarong
    nusa-penida manta gili scooter-hire frangipani | 巴厘岛 海滩 稻田 别墅
Travel/Asia | street markets
    night-market stinky-tofu bubble-tea shilin oyster-omelette | hawker laksa satay chilli-crab kopitiam
    pad-thai tuk-tuk mango-sticky-rice chatuchak longtail-boat | 夜市 小吃 臭豆腐 奶茶
Travel/Europe | alpine lakes
    hallstatt alps funicular chalet lakeside | interlaken glacier cogwheel fondue gondola
    dolomites rifugio braies tarn edelweiss | 阿尔卑斯 湖泊 雪山 小镇
Travel/Europe | city museums
    louvre uffizi gallery impressionists ticket-line | prado curator frescoes cloister audio-guide
    rijksmuseum rembrandt atelier sculpture-hall vermeer | 博物馆 卢浮宫 油画 展览
Travel/Europe | train journeys
    interrail sleeper-car couchette platform seat61 | nightjet railway buffet timetable conductor
    eurostar carriage rail-pass viaduct departure-board | 火车 卧铺 欧铁 车站
Travel/Roadtrips | van life
    campervan solar-panel bunk van-conversion dashboard | motorhome awning boondocking propane park-up
    rv hookup dump-station class-b wagon | 房车 自驾 营地 公路
Travel/Roadtrips | national parks
    yosemite canyon ranger geyser trailhead | zion slickrock permit arches mesa
    yellowstone bison badlands hot-spring overlook | 国家公园 峡谷 温泉 野牛
Travel/Islands | scuba diving
    scuba regulator reef buoyancy wreck | padi dive-log coral nitrox moray
    freediving apnea fins snorkel lagoon | 潜水 珊瑚 浮潜 海龟
Travel/Islands | island hopping
    santorini caldera blue-domes ferry naxos | cyclades catamaran taverna cove mykonos
    milos sarakiniko sailing harbour octopus | 海岛 圣托里尼 渡轮 帆船
Home/Garden | balcony vegetables
    tomatoes balcony-pots trellis seedlings compost | zucchini raised-bed mulch harvest pruning
    lettuce grow-bag fertiliser chilli-plants watering-can | 阳台种菜 番茄苗 堆肥 育苗
Home/Garden | houseplants
    monstera aroid pothos node perlite | philodendron humidity propagation rootbound leaf-shine
    succulents echeveria cactus gritty-mix terrarium | 绿植 龟背竹 多肉 换盆
Home/Interiors | small apartments
    studio-flat loft-bed storage-bench foldaway square-metres | tiny-home fold-down-sleeper shelving cubbies room-divider
    micro-apartment mezzanine hooks under-stairs modular-sofa | 小户型 收纳 榻榻米 租房
Home/Interiors | mid-century decor
    teak sideboard eames walnut-veneer sputnik | danish lounge-chair tapered-legs atomic credenza
    retro bouclé arc-lamp bauhaus tulip-table | 中古家具 柚木 落地灯 复古家居
Home/Crafts | knitting
    knitting stitches cable-needle merino purl | yarn cardigan fair-isle skein gauge-swatch
    crochet amigurumi granny-square hook cotton-ball | 编织 毛线 钩针 围巾
Home/Crafts | pottery
    pottery wheel-throwing kiln stoneware bisque | ceramics clay slip-trailing celadon mugs
    handbuilding pinch-pot raku underglaze coil | 陶艺 拉坯 釉料 陶土
Home/Crafts | woodworking
    dovetail chisel plane oak mortise | workbench plywood bandsaw clamps sanding
    joinery tenon whittling spokeshave cherry-board | 木工 榫卯 刨子 木板
Home/Pets | cats
    kitten litterbox purring tabby scratching-post | feline whiskers catnip ragdoll zoomies
    siamese calico windowsill-perch wet-food meowing | 猫咪 猫砂 布偶 逗猫棒
Home/Pets | dogs
    puppy leash crate-training retriever kibble | corgi fetch recall harness wagging
    hound kennel dog-park sheepdog treats | 狗狗 遛狗 柯基 狗粮
Home/Pets | aquariums
    aquascape driftwood shrimp-tank co2-diffuser carpet-plants | guppies aquarium betta canister-filter ammonia
    cichlids planted-nano moss neons substrate | 鱼缸 水草 孔雀鱼 造景
Style/Skincare | sunscreen
    sunscreen spf white-cast reapply zinc | uv-filter broad-spectrum pa-rating sun-stick tan-lines
    photoprotection mineral-lotion tinted-fluid burn shade-hat | 防晒 防晒霜 紫外线 晒黑
Style/Skincare | acne care
    acne salicylic breakout pore-strips benzoyl | blemish retinol purging niacinamide oil-control
    pimples cleanser toner patch clogged | 祛痘 水杨酸 闭口 控油
Style/Makeup | lipstick
    lipstick matte lip-liner bullet rouge | gloss tint plumping cupid-bow balm
    lacquer berry-shade nude-pink swatches satin-finish | 口红 唇釉 试色 哑光
Style/Makeup | eye makeup
    eyeshadow palette-pan smoky blending-brush glitter | mascara lash-curler winged-liner kohl brow-gel
    eyelids shimmer cut-crease falsies taupe | 眼影 睫毛膏 眼线 亮片
Style/Outfits | vintage clothing
    thrift-store corduroy seventies flares levis | vintage tweed brooch prairie-dress consignment
    pre-loved denim-jacket band-tee fleamarket suede | 古着 复古穿搭 牛仔外套 灯芯绒
Style/Outfits | sneakers
    sneakers jordan deadstock laces colourway | kicks dunk resale reglue restock
    trainers new-balance gum-sole toe-box insoles | 球鞋 鞋带 限量 联名
Style/Outfits | capsule wardrobe
    capsule-wardrobe trench neutral-knit loafers ten-pieces | minimalist-closet blazer white-tee straight-jeans uniform-dressing
    timeless-basics camel-coat turtleneck outfit-formula rotation | 胶囊衣橱 风衣 通勤穿搭 基础款
Style/Hair | curly hair
    curls diffuser scrunching leave-in coily | ringlets co-wash plopping frizz satin-bonnet
    waves mousse wide-tooth porosity shrinkage | 卷发 护发 蓬松 毛躁
Style/Hair | hair colour
    balayage toner-gloss bleach foils brassy | highlights purple-shampoo regrowth dye-bowl ash-blonde
    copper-hair henna salon-chair ombre developer | 染发 漂发 发色 渐变
Sport/Running | marathon training
    marathon tempo-run long-run taper bib | splits 42k carb-loading pacer finish-line
    thirteen-miles intervals strides strava lactate | 马拉松 配速 长距离 跑鞋
Sport/Running | trail running
    trail-run vert hydration-vest scree ultra | fell-race skyrunning poles singletrack aid-station
    mountain-dash descents gaiters switchbacks muddy-lugs | 越野跑 爬升 水袋 山径
Sport/Cycling | road cycling
    peloton derailleur cadence cleats watts | carbon-frame drop-bars col paceline chamois
    gran-fondo climbing-gears power-meter bidon sportive | 公路车 骑行 踏频 爬坡
Sport/Cycling | bikepacking
    bikepacking frame-bag gravel bivvy dynamo | touring panniers rack-mount tubeless campsite-spot
    overnighter handlebar-roll dirt-roads hardtail tarp | 骑行旅行 驮包 砾石路 露营
Sport/Climbing | bouldering
    bouldering crimp crashpad dyno v5 | sloper heel-hook beta chalk-bag problem-setter
    climbing-gym volumes campus-board topout spotters | 抱石 攀岩 岩馆 镁粉
Sport/Climbing | alpine climbing
    crampons ice-axe couloir rope-team bergschrund | belay multipitch rappel cams granite
    mountaineering bivouac summit-push col-traverse seracs | 冰爪 登山 绳队 雪坡
Sport/Studio | yoga
    vinyasa asana downward-dog yoga-mat pranayama | ashtanga savasana sun-salutation blocks-and-strap flow
    yin hip-opener bolster pigeon-pose breathwork | 瑜伽 体式 冥想 拉伸
Sport/Studio | weightlifting
    deadlift barbell squat-rack hypertrophy plates | powerlifting bench-press one-rep-max spotter belt
    kettlebell dumbbells sets-and-reps progressive-overload bulking | 力量训练 深蹲 硬拉 杠铃
Sport/Water | surfing
    surfboard barrel wetsuit lineup swell | longboard noseride wax point-break leash-plug
    shortboard duck-dive offshore fin-setup wipeout | 冲浪 长板 浪点 海浪
Sport/Water | kayaking
    kayak paddle spray-skirt rapids eddy | canoe portage gunwale river-trip dry-bag
    sea-touring skeg tide-table brace-stroke whitewater | 皮划艇 划桨 激流 桨板
Tech/Photography | film cameras
    35mm rangefinder portra darkroom lightmeter | analog film-roll leica grain contact-sheet
    medium-format hasselblad developer-tank negatives c41 | 胶片 相机 暗房 底片
Tech/Photography | astrophotography
    astrophoto star-tracker nebula stacking milky-way | deep-sky equatorial-mount exposures andromeda dew-heater
    telescope refractor orion guiding light-pollution | 星空摄影 银河 赤道仪 星云
Tech/Photography | portraits
    portrait softbox catchlight bokeh headshot | strobe model-release rembrandt-light backdrop 85mm
    golden-hour posing candid skin-retouch reflector | 人像 补光 布光 写真
Tech/Gadgets | keyboards
    mechanical-keyboard keycaps lubing switches tactile | thocky pbt stabilisers hotswap split-layout
    clicky linear-springs qmk artisan-cap plate-foam | 键盘 键帽 轴体 客制化
Tech/Gadgets | headphones
    headphones open-back planar amp soundstage | iem ear-tips dac treble tuning-curve
    earbuds noise-cancelling codec bass-boost charging-case | 耳机 降噪 音质 解码器
Tech/Coding | web development
    javascript react-hooks css-grid bundler frontend | typescript component tailwind deploy-preview api-route
    html accessibility svelte browser-devtools server-rendering | 前端 网页 组件 代码
Tech/Coding | data science
    pandas notebook regression scikit dataframe | machine-learning gradient-descent overfitting feature-store kaggle
    sql dashboards cohort warehouse-query ab-test | 数据分析 机器学习 建模 数据集
Tech/Making | 3d printing
    filament nozzle pla bed-levelling slicer | resin-print supports uv-cure layer-lines miniatures
    3d-printer extruder petg infill overhang | 打印机 耗材 切片 模型
Tech/Making | home automation
    home-assistant zigbee sensor dashboard-card relay | smart-bulbs matter-hub wake-word routines thermostat
    esp32 mqtt soldering automations motion-detector | 智能家居 传感器 网关 自动化
Arts/Music | guitar
    guitar fretboard fingerstyle capo humbucker | strat pedalboard riff overdrive pickups
    acoustic chords strumming barre dreadnought | 吉他 和弦 指弹 效果器
Arts/Music | vinyl records
    vinyl turntable-stylus crate-digging first-edition sleeve | lp cartridge phono-stage record-shop reissue
    45s needle-drop gatefold hi-fi wax-pressing | 黑胶 唱片 唱机 唱针
Arts/Books | fantasy novels
    fantasy-novel dragons worldbuilding magic-system trilogy | epic-saga sorcerer elves prophecy chosen-one
    grimdark assassin-guild kingdoms tolkien hardcover | 奇幻小说 魔法 龙族 三部曲
Arts/Books | detective fiction
    whodunit poirot locked-room alibi inspector | noir gumshoe clues culprit plot-twist
    murder-mystery sleuth cosy-crime red-herring suspects | 推理小说 侦探 密室 凶手
Arts/Drawing | watercolour
    watercolour wet-on-wet pigment cold-press granulation | aquarelle washes sable-brush masking-fluid botanical
    gouache paintbox loose-florals paper-block glazing | 水彩 颜料 晕染 画纸
Arts/Drawing | urban sketching
    sketchbook fineliner perspective urban-sketch hatching | ink-drawing fountain-nib alleyway vanishing-point cafe-corner
    pencil-study croquis graphite shading rooftops | 速写 线稿 透视 手账
Arts/Games | board games
    boardgame meeples worker-placement dice catan | eurogame tokens deckbuilder rulebook game-night
    tabletop wingspan tile-laying victory-points expansion-box | 桌游 骰子 卡牌 策略
Arts/Games | farming games
    stardew pixel-farm crops villagers iridium | cozy-game turnips animal-crossing island-tour bells
    harvest-sim barn-upgrade fishing-minigame seasons-festival switch-console | 星露谷 动森 农场 像素
"""


@dataclasses.dataclass(frozen=True)
class Topic:
    """What a note can be about.

    Attributes:
        leaf: its category, "Food/Baking".
        wordings: English words, by wording; no word stands in two wordings or two topics.
        chinese: its one Chinese wording.
    """

    leaf: str
    name: str
    wordings: tuple[tuple[str, ...], ...]
    chinese: tuple[str, ...]

    @property
    def top(self) -> str:
        """The category's first step, "Food"."""
        return self.leaf.split("/")[0]


@cache
def all_topics() -> tuple[Topic, ...]:
    """Every topic, in the order of the tree."""
    found = []
    lines = _TOPICS.strip().splitlines()
    for at in range(0, len(lines), 3):
        heading, first, second = lines[at : at + 3]
        leaf, name, *wordings, chinese = (part.strip() for part in f"{heading}|{first}|{second}".split("|"))
        words = tuple(tuple(word.replace("-", " ") for word in wording.split()) for wording in wordings)
        found.append(Topic(leaf, name, words, tuple(chinese.split())))
    return tuple(found)


def choose_topics(count: int) -> list[Topic]:
    """`count` topics spread evenly over the tree (all of them at most)."""
    topics = all_topics()
    count = min(count, len(topics))
    return [topics[at * len(topics) // count] for at in range(count)]
