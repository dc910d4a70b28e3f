import { serve } from './serve.ts'

/** Knows what is there. */
serve(async () => ({ service: 'stock', apples: 12, pears: 7 }))
