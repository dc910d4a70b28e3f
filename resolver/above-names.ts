import { instanceOf, policyOf } from '../src/core/model/choice.ts'
import type { TableView } from '../src/core/table/view.ts'

/**
 * Whether names that exist are below this one (`name` without its zone): it is then empty, not absent, and NXDOMAIN would let a
 * resolver that caches deny all of them (RFC 8020).
 *
 *     shop.acme.cart.prod.any.rr      above it:  acme.cart.prod.any.rr … any.rr, rr
 *     shop.acme.cart.any.rr                      acme.cart.any.rr …
 *     any.rr.cart.prod.shop.acme                 rr.cart.prod.shop.acme, cart.prod.shop.acme … acme
 */
export function isAboveNames(name: string, table: TableView): boolean {
  const labels = name.split('.')
  if (labels.length > 5) return false
  const policy = policyOf(labels.at(-1) as string)
  const instance = labels.at(-2)
  const endsInChoice = policy !== undefined && (instance === undefined || instanceOf(instance) !== undefined)
  if (endsInChoice && labels.length <= 2) return true
  const forward = endsInChoice ? labels.slice(0, -2).join('.') : undefined
  const startsWithPolicy = policyOf(labels[0] as string) !== undefined
  const backward = startsWithPolicy ? labels.slice(1).join('.') : name
  for (const { service } of table.services()) {
    const { app, appNamespace, name: word, namespace } = service
    if (forward !== undefined) {
      if (isEndOf(forward, service.id) || isEndOf(forward, `${app}.${appNamespace}.${word}`.toLowerCase())) return true
    }
    const reversed = `${word}.${namespace}.${app}.${appNamespace}`.toLowerCase()
    if (startsWithPolicy ? backward === reversed : isEndOf(backward, reversed)) return true
  }
  return false
}

function isEndOf(end: string, whole: string): boolean {
  return whole === end || whole.endsWith(`.${end}`)
}
