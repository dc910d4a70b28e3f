export const POLICIES = ['rr', 'closest', 'pinned', 'least'] as const
export type Policy = (typeof POLICIES)[number]

/** How an instance is chosen: a policy, an instance number, or both. */
export interface Choice {
  instance: number | 'any'
  policy: Policy
}

/** `any.rr`, `3.pinned`, … */
export type ChoiceKey = `${number | 'any'}.${Policy}`

/** The largest instance number that fits a name: six digits. */
export const LAST_INSTANCE = 999_999

/** Every word that a name may use for a policy. The canonical word is the policy itself. */
export const POLICY_WORDS: ReadonlyMap<string, Policy> = new Map<string, Policy>([
  ['rr', 'rr'],
  ['roundrobin', 'rr'],
  ['round-robin', 'rr'],
  ['closest', 'closest'],
  ['pinned', 'pinned'],
  ['instance', 'pinned'],
  ['pin', 'pinned'],
  ['least', 'least'],
])

/** The policy that a lower-case word stands for, if any. */
export function policyOf(word: string): Policy | undefined {
  return POLICY_WORDS.get(word)
}

/** `any` or 0 … 999999 without leading zeros; `undefined` for anything else. */
export function instanceOf(word: string): number | 'any' | undefined {
  if (word === 'any') return 'any'
  if (!isDigits(word) || word.length > 6 || (word.length > 1 && word.charCodeAt(0) === 48)) return undefined
  return Number(word)
}

export function choiceKey({ instance, policy }: Choice): ChoiceKey {
  return `${instance}.${policy}`
}

/** Reads `any.rr` or `3.pinned`, aliases included; `undefined` when it is not a choice. */
export function choiceOf(key: string): Choice | undefined {
  const dot = key.indexOf('.')
  if (dot < 0) return undefined
  const instance = instanceOf(key.slice(0, dot))
  const policy = policyOf(key.slice(dot + 1))
  return instance === undefined || policy === undefined ? undefined : { instance, policy }
}

export function isDigits(word: string): boolean {
  for (let i = 0; i < word.length; i++) {
    const code = word.charCodeAt(i)
    if (code < 48 || code > 57) return false
  }
  return word.length > 0
}
