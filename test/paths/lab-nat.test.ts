import t from 'tap'
import { NAT_ALIASES, NAT_KINDS, rulesOf, type NatKind } from '../../src/lab/nat.ts'

const router = { egress: 'all', outside: '203.0.113.101' } as const
const rules = (nat: NatKind, hairpin = false) => rulesOf({ ...router, nat, hairpin })

t.test('the lab accepts NATs by their RFC 4787 terms and by their popular names', (t) => {
  for (const [alias, behavior] of Object.entries(NAT_ALIASES))
    t.equal(rules(alias as NatKind), rules(behavior), `${alias} is ${behavior}`)
  t.equal(new Set(NAT_KINDS.map((kind) => rules(kind))).size, NAT_KINDS.length - Object.keys(NAT_ALIASES).length)
  t.end()
})

t.test('only a NAT with endpoint-independent mapping hairpins', (t) => {
  t.match(rules('endpoint-independent', true), /oifname "lan" ct status dnat masquerade/)
  for (const kind of ['none', 'symmetric', 'address-and-port-dependent-mapping'] as const)
    t.throws(() => rules(kind, true), { message: `no hairpin with nat ${kind}` })
  t.end()
})
