"""The only room that imports ray: serving, the phases as Ray Data pipelines, the builder."""
