/**
 * Names and what they mean, as data: other implementations may use it too.
 * `means` is the canonical form without its zone; `*` stands for a service namespace that is left out.
 */
export interface ValidRow {
  why: string
  name: string
  means: string
  zone: string
}

export interface InvalidRow {
  why: string
  name: string
  label: string
  /** A part of the reason. */
  reason: string
}

export const ZONES = ['local', 'internal', 'mesh.example', 'deep.local']

const L63 = 'a'.repeat(63)
const CART = 'shop.acme.cart.prod'

export const valid: readonly ValidRow[] = [
  // every choice, canonical
  { why: 'round robin', name: `${CART}.any.rr.local`, means: `${CART}.any.rr`, zone: 'local' },
  { why: 'alias roundrobin', name: `${CART}.any.roundrobin.local`, means: `${CART}.any.rr`, zone: 'local' },
  { why: 'alias round-robin', name: `${CART}.any.round-robin.local`, means: `${CART}.any.rr`, zone: 'local' },
  { why: 'closest', name: `${CART}.any.closest.local`, means: `${CART}.any.closest`, zone: 'local' },
  { why: 'each caller sticks', name: `${CART}.any.pinned.local`, means: `${CART}.any.pinned`, zone: 'local' },
  { why: 'alias instance', name: `${CART}.any.instance.local`, means: `${CART}.any.pinned`, zone: 'local' },
  { why: 'alias pin', name: `${CART}.any.pin.local`, means: `${CART}.any.pinned`, zone: 'local' },
  { why: 'least flows', name: `${CART}.any.least.local`, means: `${CART}.any.least`, zone: 'local' },
  { why: 'one instance', name: `${CART}.3.pinned.local`, means: `${CART}.3.pinned`, zone: 'local' },
  { why: 'one instance, alias', name: `${CART}.3.instance.local`, means: `${CART}.3.pinned`, zone: 'local' },
  { why: 'one instance, short alias', name: `${CART}.3.pin.local`, means: `${CART}.3.pinned`, zone: 'local' },
  { why: 'mixed with rr', name: `${CART}.3.rr.local`, means: `${CART}.3.rr`, zone: 'local' },
  { why: 'mixed with an alias', name: `${CART}.3.round-robin.local`, means: `${CART}.3.rr`, zone: 'local' },
  { why: 'mixed with closest', name: `${CART}.3.closest.local`, means: `${CART}.3.closest`, zone: 'local' },
  { why: 'mixed with least', name: `${CART}.3.least.local`, means: `${CART}.3.least`, zone: 'local' },
  { why: 'the first instance', name: `${CART}.0.pinned.local`, means: `${CART}.0.pinned`, zone: 'local' },
  { why: 'the last number', name: `${CART}.999999.pinned.local`, means: `${CART}.999999.pinned`, zone: 'local' },
  // zones and case
  { why: 'the other zone', name: `${CART}.any.rr.internal`, means: `${CART}.any.rr`, zone: 'internal' },
  { why: 'a zone of two labels', name: `${CART}.any.rr.mesh.example`, means: `${CART}.any.rr`, zone: 'mesh.example' },
  { why: 'the longest zone wins', name: `${CART}.any.rr.deep.local`, means: `${CART}.any.rr`, zone: 'deep.local' },
  { why: 'absolute', name: `${CART}.any.rr.local.`, means: `${CART}.any.rr`, zone: 'local' },
  { why: 'upper case', name: 'SHOP.ACME.CART.PROD.ANY.RR.LOCAL', means: `${CART}.any.rr`, zone: 'local' },
  { why: '0x20 case', name: 'sHoP.aCmE.CaRt.pRoD.aNy.ClOsEsT.LoCaL.', means: `${CART}.any.closest`, zone: 'local' },
  // short
  { why: 'short', name: 'shop.acme.cart.any.rr.local', means: 'shop.acme.cart.*.any.rr', zone: 'local' },
  {
    why: 'short, internal',
    name: 'shop.acme.cart.0.pin.internal',
    means: 'shop.acme.cart.*.0.pinned',
    zone: 'internal',
  },
  {
    why: 'short, mixed',
    name: 'shop.acme.cart.12.closest.local.',
    means: 'shop.acme.cart.*.12.closest',
    zone: 'local',
  },
  { why: 'short, long zone', name: 'a.b.c.any.least.mesh.example', means: 'a.b.c.*.any.least', zone: 'mesh.example' },
  // reversed
  { why: 'reversed', name: 'any.rr.cart.prod.shop.acme.local', means: `${CART}.any.rr`, zone: 'local' },
  { why: 'reversed, alias', name: 'any.roundrobin.cart.prod.shop.acme.local', means: `${CART}.any.rr`, zone: 'local' },
  {
    why: 'reversed, number',
    name: '3.pinned.cart.prod.shop.acme.internal',
    means: `${CART}.3.pinned`,
    zone: 'internal',
  },
  { why: 'reversed, mixed', name: '0.closest.cart.prod.shop.acme.local', means: `${CART}.0.closest`, zone: 'local' },
  {
    why: 'reversed, upper case',
    name: 'ANY.Least.Cart.Prod.Shop.Acme.local',
    means: `${CART}.any.least`,
    zone: 'local',
  },
  // labels
  { why: 'one letter each', name: 'a.b.c.d.any.rr.local', means: 'a.b.c.d.any.rr', zone: 'local' },
  { why: 'all the same', name: 'a.a.a.a.any.rr.local', means: 'a.a.a.a.any.rr', zone: 'local' },
  {
    why: 'inner hyphens',
    name: 'my-shop.a-b.c--d.e-f-g.any.rr.local',
    means: 'my-shop.a-b.c--d.e-f-g.any.rr',
    zone: 'local',
  },
  { why: 'digits and letters', name: '3d.4x.7up.v1.any.rr.local', means: '3d.4x.7up.v1.any.rr', zone: 'local' },
  {
    why: 'punycode',
    name: 'xn--bcher-kva.de.web.prod.any.rr.local',
    means: 'xn--bcher-kva.de.web.prod.any.rr',
    zone: 'local',
  },
  { why: '63 characters', name: `${L63}.b.c.d.any.rr.local`, means: `${L63}.b.c.d.any.rr`, zone: 'local' },
  {
    why: 'begins like a policy',
    name: 'rrr.closest1.pins.least-a.any.rr.local',
    means: 'rrr.closest1.pins.least-a.any.rr',
    zone: 'local',
  },
  {
    why: 'begins like any',
    name: 'any1.many.any-a.anyany.any.rr.local',
    means: 'any1.many.any-a.anyany.any.rr',
    zone: 'local',
  },
  {
    why: 'an app called as the zone',
    name: 'local.local.local.local.any.rr.local',
    means: 'local.local.local.local.any.rr',
    zone: 'local',
  },
  {
    why: 'words of JavaScript',
    name: 'constructor.prototype.toString.valueOf.any.rr.local',
    means: 'constructor.prototype.tostring.valueof.any.rr',
    zone: 'local',
  },
  {
    why: '253 characters',
    name: `${L63}.${L63}.${L63}.${'b'.repeat(48)}.any.rr.local`,
    means: `${L63}.${L63}.${L63}.${'b'.repeat(48)}.any.rr`,
    zone: 'local',
  },
]

export const invalid: readonly InvalidRow[] = [
  // policy
  { why: 'a typing error', name: `${CART}.any.closet.local`, label: 'closet', reason: 'did you mean closest?' },
  { why: 'a letter too much', name: `${CART}.any.leastt.local`, label: 'leastt', reason: 'did you mean least?' },
  {
    why: 'two letters wrong',
    name: `${CART}.any.roundrobni.local`,
    label: 'roundrobni',
    reason: 'did you mean roundrobin?',
  },
  {
    why: 'an error in the reversed form',
    name: 'any.pined.cart.prod.shop.acme.local',
    label: 'pined',
    reason: 'did you mean pinned?',
  },
  {
    why: 'an error in the short form',
    name: 'shop.acme.cart.any.clostest.local',
    label: 'clostest',
    reason: 'did you mean closest?',
  },
  {
    why: 'no policy at all like it',
    name: `${CART}.any.random.local`,
    label: 'random',
    reason: 'there are rr, closest, pinned, least',
  },
  {
    why: 'words of JavaScript are no policies',
    name: `${CART}.any.constructor.local`,
    label: 'constructor',
    reason: 'no such policy',
  },
  { why: 'no policy', name: `${CART}.any.local`, label: 'any', reason: 'no policy after it' },
  { why: 'no policy after a number', name: `${CART}.3.local`, label: '3', reason: 'no policy after it' },
  { why: 'swapped', name: `${CART}.closest.any.local`, label: 'any', reason: 'any.closest' },
  { why: 'swapped with a number', name: 'shop.acme.cart.rr.7.local', label: '7', reason: '7.rr' },
  // instance
  { why: 'leading zeros', name: `${CART}.007.rr.local`, label: '007', reason: 'no leading zeros' },
  { why: 'two zeros', name: `${CART}.00.rr.local`, label: '00', reason: 'no leading zeros' },
  { why: 'seven digits', name: `${CART}.1000000.rr.local`, label: '1000000', reason: 'at most six digits' },
  { why: 'seven digits with a zero', name: `${CART}.0000001.rr.local`, label: '0000001', reason: 'no leading zeros' },
  { why: 'negative', name: `${CART}.-1.rr.local`, label: '-1', reason: 'neither `any` nor an instance number' },
  { why: 'hexadecimal', name: `${CART}.0x1.rr.local`, label: '0x1', reason: 'neither `any`' },
  { why: 'a word', name: `${CART}.all.rr.local`, label: 'all', reason: 'neither `any`' },
  { why: 'a star', name: `${CART}.*.rr.local`, label: '*', reason: 'neither `any`' },
  { why: 'no instance', name: `${CART}.rr.local`, label: 'prod', reason: 'neither `any`' },
  {
    why: 'reversed with leading zeros',
    name: '01.rr.cart.prod.shop.acme.local',
    label: '01',
    reason: 'no leading zeros',
  },
  {
    why: 'reversed with a wrong instance',
    name: 'all.rr.cart.prod.shop.acme.local',
    label: 'all',
    reason: 'neither `any`',
  },
  // reserved words
  { why: 'an app called any', name: 'any.acme.cart.prod.any.rr.local', label: 'any', reason: 'app: a reserved word' },
  {
    why: 'a namespace called rr',
    name: 'shop.rr.cart.prod.any.rr.local',
    label: 'rr',
    reason: 'namespace of the app: a reserved word',
  },
  {
    why: 'a service called least',
    name: 'shop.acme.least.prod.any.rr.local',
    label: 'least',
    reason: 'service: a reserved word',
  },
  {
    why: 'an alias is reserved too',
    name: 'shop.acme.cart.instance.any.rr.local',
    label: 'instance',
    reason: 'namespace of the service: a reserved word',
  },
  {
    why: 'with a hyphen too',
    name: 'round-robin.acme.cart.prod.any.rr.local',
    label: 'round-robin',
    reason: 'a reserved word',
  },
  { why: 'reserved in upper case', name: 'PIN.acme.cart.prod.any.rr.local', label: 'pin', reason: 'a reserved word' },
  { why: 'digits only', name: 'shop.acme.42.prod.any.rr.local', label: '42', reason: 'digits alone' },
  { why: 'digits only, short form', name: '7.acme.cart.any.rr.local', label: '7', reason: 'digits alone' },
  { why: 'choices at both ends', name: 'any.rr.cart.prod.any.rr.local', label: 'any', reason: 'a reserved word' },
  {
    why: 'reversed, reserved app',
    name: 'any.rr.cart.prod.closest.acme.local',
    label: 'closest',
    reason: 'app: a reserved word',
  },
  // labels
  { why: 'an empty label', name: 'shop..cart.prod.any.rr.local', label: '', reason: 'empty' },
  { why: 'a leading dot', name: '.shop.acme.cart.any.rr.local', label: '', reason: 'empty' },
  {
    why: '64 characters',
    name: `${L63}a.b.c.d.any.rr.local`,
    label: `${L63}a`,
    reason: '64 characters long; 63 is the limit',
  },
  { why: 'a leading hyphen', name: '-shop.acme.cart.prod.any.rr.local', label: '-shop', reason: 'hyphen' },
  { why: 'a trailing hyphen', name: 'shop.acme.cart-.prod.any.rr.local', label: 'cart-', reason: 'hyphen' },
  { why: 'a hyphen alone', name: 'shop.acme.-.prod.any.rr.local', label: '-', reason: 'hyphen' },
  { why: 'an underscore', name: 'shop.acme.my_cart.prod.any.rr.local', label: 'my_cart', reason: 'has "_"' },
  { why: 'a space', name: 'shop.acme.my cart.prod.any.rr.local', label: 'my cart', reason: 'has " "' },
  { why: 'a colon', name: 'shop.acme.cart:80.prod.any.rr.local', label: 'cart:80', reason: 'has ":"' },
  { why: 'a zero byte', name: 'shop.acme.ca\0rt.prod.any.rr.local', label: 'ca\0rt', reason: 'only letters' },
  { why: 'an umlaut', name: 'shop.acme.bücher.prod.any.rr.local', label: 'bücher', reason: 'has "ü"' },
  { why: 'an emoji, whole in the reason', name: 'shop.acme.c🛒.prod.any.rr.local', label: 'c🛒', reason: 'has "🛒"' },
  {
    why: 'the Kelvin sign is no k',
    name: 'shop.acme.\u212aart.prod.any.rr.local',
    label: '\u212aart',
    reason: 'only letters',
  },
  // count
  { why: 'the zone itself', name: 'local', label: '', reason: 'the zone itself' },
  { why: 'the zone itself, absolute', name: 'Internal.', label: '', reason: 'the zone itself' },
  { why: 'one label', name: 'printer.local', label: 'printer', reason: '1 label before the zone' },
  { why: 'no choice', name: `${CART}.local`, label: 'prod', reason: '4 labels before the zone' },
  { why: 'too many', name: `x.${CART}.any.rr.local`, label: 'rr', reason: '7 labels before the zone' },
  {
    why: 'an SRV label is the resolver’s matter',
    name: `_http._tcp.${CART}.any.rr.local`,
    label: 'rr',
    reason: '8 labels',
  },
  {
    why: '254 characters',
    name: `${L63}.${L63}.${L63}.${'b'.repeat(49)}.any.rr.local`,
    label: L63,
    reason: 'longer than 253',
  },
]

/** In none of the zones. */
export const outside: ReadonlyArray<{ why: string; name: string }> = [
  { why: 'another domain', name: 'example.com' },
  { why: 'the root', name: '.' },
  { why: 'nothing', name: '' },
  { why: 'a zone’s name is its end only', name: 'local.example.com' },
  { why: 'not at a label’s boundary', name: `${CART}.any.rr.notlocal` },
  { why: 'half of a zone', name: `${CART}.any.rr.example` },
  { why: 'an underscore does not end a label', name: 'a_local' },
  { why: 'two final dots', name: `${CART}.any.rr.local..` },
  { why: 'a Kelvin sign in the zone’s place', name: 'a.\u212a' },
]
