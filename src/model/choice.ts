export const POLICIES = ['rr', 'closest', 'pinned', 'least'] as const
export type Policy = (typeof POLICIES)[number]

/** How an instance is chosen: a policy, an instance number, or both. */
export interface Choice {
  instance: number | 'any'
  policy: Policy
}

/** `any.rr`, `3.pinned`, … */
export type ChoiceKey = `${number | 'any'}.${Policy}`

export function choiceKey({ instance, policy }: Choice): ChoiceKey {
  return `${instance}.${policy}`
}
